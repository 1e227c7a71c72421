"""Makes this machine part of a Ray cluster: `ray start` with the resources and labels that Motet's replicas need.

The machine leaves the cluster when the process ends.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from cluster import address as cluster_address
from cluster.hardware import Kind, node_offer
from deployments.errors import fail

TOKEN_FILE = Path.home() / ".ray" / "auth_token"
TOKEN_NAMES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def join(address: str | None, kind: Kind, port: int, environment: Mapping[str, str]) -> None:
    """Becomes the Ray node, with these variables; does not return.

    Raises `MotetError` if no token is set (unauthorized), or if no cluster answers at `address` (unavailable).
    """
    _check_token(os.environ)
    if address:
        cluster_address.probe(address)
    command = node_command(address, kind, port)
    os.execve(command[0], command, {**os.environ, **environment})  # noqa: S606  (its signals are ours)


def node_command(address: str | None, kind: Kind, port: int) -> list[str]:
    """The command line of this machine's Ray node: in the cluster at `address`, or the first of a new one."""
    offer = node_offer((kind,))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    command += [f"--address={address}"] if address else ["--head", f"--port={port}", "--include-dashboard=false"]
    if offer["resources"]:
        command.append(f"--resources={json.dumps(offer['resources'])}")
    if offer["labels"]:
        command.append("--labels=" + ",".join(f"{name}={value}" for name, value in offer["labels"].items()))
    if kind != "cuda":
        command.append("--num-gpus=0")  # Ray 2.60 would offer a Mac's GPU as one for CUDA
    return command


def _check_token(present: Mapping[str, str]) -> None:
    """Ray's ports are open to the network: without a token, everyone who reaches them runs programs here."""
    if present.get("RAY_AUTH_MODE", "token") == "token" and not (
        any(name in present for name in TOKEN_NAMES) or TOKEN_FILE.is_file()
    ):
        raise fail(
            "unauthorized",
            "The machines of a cluster authenticate each other with a token, and there is none here.",
            f"On the first machine: ray get-auth-token --generate. Then copy {TOKEN_FILE} to the others.",
        )
