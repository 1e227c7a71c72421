"""`motet wyoming`: a service for Home Assistant and other clients of the Wyoming protocol."""

from __future__ import annotations

import os
from typing import Annotated

import typer


def wyoming(
    listen: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where clients connect: tcp://host:port or unix:///path.")
    ] = "tcp://127.0.0.1:10300",
    service: Annotated[
        str, typer.Option(metavar="URL", help="The service that speaks and transcribes. MOTET_API_KEY is its key.")
    ] = "http://127.0.0.1:8000",
    zeroconf: Annotated[
        bool, typer.Option("--zeroconf", help="Announce it in the local network; needs the package zeroconf.")
    ] = False,
) -> None:
    """Offer a running service to Home Assistant, over the Wyoming protocol, until Ctrl-C.

    Wyoming has no keys and no encryption. For a Home Assistant on another machine, listen at tcp://0.0.0.0:10300, but only
    in a network that you trust.

    Example: [bold]motet wyoming --service http://127.0.0.1:8000[/bold]
    """
    import asyncio

    from serve_app.cli.terminal import note
    from serve_app.wyoming.remote_service import RemoteService
    from serve_app.wyoming.server import run, server_at

    remote = RemoteService(service, os.environ.get("MOTET_API_KEY"))
    server = server_at(listen)
    note(f"Wyoming at {listen}, for the service at {service}. Ctrl-C ends it.")
    asyncio.run(run(server, remote, announced=zeroconf))
