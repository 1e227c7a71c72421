"""Connects to a Ray cluster. It first checks within seconds that one answers: Ray itself would wait for minutes."""

from __future__ import annotations

import logging
import socket
import threading
from contextlib import closing
from typing import Any

from cluster import ray_private, ray_sessions
from cluster.ray_messages import without_log_level_message
from deployments.errors import MotetError, fail

OWN_CLUSTER = "local"
"""Ray's word for a new cluster on this machine alone."""
LAST_STARTED = "auto"
"""Ray's word for the cluster that runs on this machine."""
PROBE_S = 3.0
CLIENT_SCHEME = "ray://"
LEAST_PORT, MOST_PORT = 1, 65535


def connect(address: str, *, logging_level: int = logging.ERROR, **settings: Any) -> None:
    """Calls `ray.init` with `address`.

    Raises `MotetError` within seconds if nothing listens there or Ray refuses the connection (unavailable), or if it is not
    an address (invalid).
    """
    import ray

    probe(address)
    try:
        with without_log_level_message():
            ray.init(address=address, log_to_driver=False, logging_level=logging_level, **settings)
    except Exception as error:
        if address == OWN_CLUSTER:
            raise
        raise _no_cluster(address, next(iter(str(error).splitlines()), type(error).__name__)) from error
    if address == OWN_CLUSTER:  # which begins a session
        folder = ray_sessions.sessions_folder()
        threading.Thread(target=ray_sessions.remove_old, args=(folder,), daemon=True).start()


def service_identity(application: str) -> str:
    """What all replicas of an application of the connected cluster on this machine have in common, and those of no other
    cluster that runs."""
    import ray

    context: Any = ray.get_runtime_context()
    return f"{application} of the Ray cluster {context.gcs_address} on {socket.gethostname()}"


def probe(address: str) -> None:
    """Connects to the cluster's port and closes the connection, for a few seconds at most. Raises `MotetError`.

    A cluster that is still to be started has no port, and addresses of other schemes than Ray Client's are left to Ray.
    """
    where = _running_here() if address == LAST_STARTED else address
    place = where.removeprefix(CLIENT_SCHEME)
    if where == OWN_CLUSTER or "://" in place:
        return
    host, port = _host_and_port(place.split("?")[0].rstrip("/"))
    try:
        with closing(socket.create_connection((host, port), timeout=PROBE_S)):
            pass
    except OSError as error:
        raise _no_cluster(where, error.strerror or str(error)) from error


def _running_here() -> str:
    try:
        return ray_private.address_of_started_cluster()
    except ConnectionError as error:
        raise _no_cluster("this machine", "none was started here") from error


def _host_and_port(place: str) -> tuple[str, int]:
    host, _, port = place.rpartition(":")
    if not host.strip("[]") or not port.isascii() or not port.isdigit() or not LEAST_PORT <= int(port) <= MOST_PORT:
        remedy = f"Write HOST:PORT, ray://HOST:PORT, {LAST_STARTED} or {OWN_CLUSTER}."
        raise fail("invalid", f"{place!r} is not the address of a Ray cluster.", remedy)
    return host.strip("[]"), int(port)


def _no_cluster(where: str, why: str) -> MotetError:
    cause = f"No Ray cluster answers at {where}: {why.rstrip('.')}."
    return fail("unavailable", cause, "Start one with motet join, and set RAY_ADDRESS to its address.")
