"""`motet join`: this machine becomes part of a Ray cluster, offering the hardware class that replicas look for.

It is `ray start` with the resources, labels and environment that Motet's replicas need; it ends with Ctrl-C, and then the
machine has left.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from cluster.hardware import Kind, node_offer
from deployments.errors import fail
from serve_app import profiles
from serve_app.cli import cluster_address

TOKEN_FILE = Path.home() / ".ray" / "auth_token"
TOKEN_NAMES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def join(address: str | None, kind: Kind, port: int) -> None:
    """Becomes the Ray node; does not return. Raises `MotetError` where no token is set, or nobody is at `address`."""
    _check_token(os.environ)
    if address:
        cluster_address.probe(address)
    command = node_command(address, kind, port)
    os.execve(command[0], command, {**os.environ, **environment(os.environ)})  # noqa: S606  (its signals are ours)


def node_command(address: str | None, kind: Kind, port: int) -> list[str]:
    """The program that is this machine's part of the cluster: of the one at `address`, or the first of a new one."""
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


def environment(present: Mapping[str, str]) -> dict[str, str]:
    """Variables for the node and every replica on it. What is set already wins."""
    wanted = {
        **profiles.EVERYWHERE,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # Ray starts no cluster with Macs otherwise
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": profiles.LARGEST_MESSAGE,
    }
    return {name: value for name, value in wanted.items() if name not in present}


def _check_token(present: Mapping[str, str]) -> None:
    """Ray's ports are open to the network: whoever reaches them without a token runs programs here."""
    if present.get("RAY_AUTH_MODE", "token") == "token" and not (
        any(name in present for name in TOKEN_NAMES) or TOKEN_FILE.is_file()
    ):
        raise fail(
            "unauthorized",
            "The machines of a cluster know each other by a token, and there is none here.",
            f"On the first machine: ray get-auth-token --generate. Then copy {TOKEN_FILE} to the others.",
        )
