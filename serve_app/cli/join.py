"""`motet join`: this machine as part of a cluster."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from cluster import join as node
from cluster.hardware import Kind
from serve_app import profiles


def join(
    address: Annotated[
        str | None, typer.Argument(metavar="HOST:PORT", show_default="none: this is the first machine of a new cluster")
    ] = None,
    hardware: Annotated[Kind, typer.Option(help="What this machine offers; replicas of class cpu run on any.")] = "cpu",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the first machine listens.")] = 6379,
) -> None:
    """Make this machine part of a cluster, until Ctrl-C. Replicas of its hardware class then run here too.

    All machines need the same Python, Ray and Motet, and the same token (ray get-auth-token --generate).

    Example: [bold]motet join 192.168.0.2:6379 --hardware mlx[/bold]

    Then, on the first of them: [bold]RAY_ADDRESS=192.168.0.2:6379 motet serve[/bold]
    """
    store = profiles.object_store(profiles.shared_memory(), os.environ)
    node.join(address, hardware, port, profiles.node_environment(os.environ) | store)
