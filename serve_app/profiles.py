"""The two ways Ray Serve is run, and the environment each needs before Ray starts.

`throughput` is the normal one on Linux: an HAProxy front that reaches the gateway directly, and gRPC between deployments.
`plain` is Ray Serve as it comes, for other systems and for debugging.
"""

from __future__ import annotations

import os
import secrets
import shlex
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from cluster.demand import METRICS_EVERY_S
from deployments.errors import fail
from serve_app.edge.haproxy_sessions import ADMIN_SOCKET
from serve_app.edge.settings import FRONT_HOST, LOOPBACK, OWN_PAGES, VARIABLE, EdgeSettings

Profile = Literal["throughput", "plain"]

STATS_OFFSET = 404
METRICS_OFFSET = 1101
ALL_METRICS_OFFSET = 80
"""HAProxy's own ports and that of Ray's metrics, counted from the service's: 8404, 9101 and 8080 beside 8000, where Ray
Serve and the manifests put them too."""

GATEWAY_PORTS = (20_000, 32_000)
BLOCK_PORTS = 20
"""As many gateway replicas can run beside one HAProxy, less one."""

HAPROXY_HOSTS = ("127.0.0.1", "localhost", "0.0.0.0", "::")
"""HAProxy reaches the gateway at 127.0.0.1, and the gateway listens where the service does."""

LARGEST_MESSAGE = str(2**31 - 1)
"""Bytes of a call between deployments. gRPC's own limit is 4 MB, and a recording may be longer."""
TOKEN_BYTES = 32
LONGEST_STREAM_S = 24 * 3600

DEFAULT_EDGE = EdgeSettings()

PROXY_HEALTH_EVERY_S = 1.0
"""How often Ray Serve looks whether its proxies, HAProxy among them, live. It replaces one after the third failure."""

MIDDLEWARES = "serve_app.edge.middleware:middlewares"
"""Middleware of each HTTP server of Ray Serve."""

HAPROXY_FOLDER = "RAY_SERVE_HAPROXY_SERVER_STATE_BASE"
"""The variable with the folder of this service's HAProxy."""

FOLDER_PREFIX = "motet-"
LONGEST_TEMPORARY = 97 - len(f"/{FOLDER_PREFIX}12345678/{'n' * 56}/metrics.sock")
"""HAProxy takes 97 characters for a socket, and Ray Serve puts sockets into a folder named after the node (56 characters)."""

HAPROXY_PROGRAM = "haproxy"
"""The program that Ray Serve starts instead of HAProxy, in the folder of the service."""


ANY_RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": MIDDLEWARES,
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": f"{PROXY_HEALTH_EVERY_S:g}",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": f"{METRICS_EVERY_S:g}",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": f"{METRICS_EVERY_S:g}",
}
"""Variables that are set before any part of Ray starts."""

EVERYWHERE = ANY_RAY | {
    "RAY_worker_niceness": "0",  # a replica is not a batch job
    # A frozen replica would keep its CPUs, and so its successor waiting, until `drain_s` is over.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    # The throughput profile would keep a thousand lines of the log in memory, for hours where little happens.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Variables that each machine of a service sets before its part of Ray starts."""


ONE_MACHINE = {
    "RAY_preload_python_modules": "serve_app.workers.worker_start",
    # Statistics of Ray's event loops and of its tasks, which only a dashboard shows. The first are kept for each event.
    "RAY_event_stats": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_debug_dump_period_milliseconds": "0",
    # Ray does these ten times a second or more often. None of them affects the latency of a request.
    "RAY_raylet_report_resources_period_milliseconds": "500",
    "RAY_raylet_check_gc_period_milliseconds": "1000",
    "RAY_memory_monitor_refresh_ms": "1000",
    "RAY_kill_idle_workers_interval_ms": "1000",
    "RAY_local_fs_monitor_interval_ms": "1000",
    "RAY_object_manager_timer_freq_ms": "1000",
    "RAY_io_context_monitor_probe_interval_ms": "10000",
    "RAY_DASHBOARD_AGGREGATOR_AGENT_CHECK_MAIN_THREAD_LIVENESS_INTERVAL_SECONDS": "5",
    # Ray passes metrics on every 10 s. Ray Serve would gather its own in each process every 0.1 s.
    "REPORTER_UPDATE_INTERVAL_MS": "15000",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "5000",
    # `motet serve` asks the proxies of a service that stops whether they have sent everything (`serve_app/cli/draining.py`).
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "0.1",
    # The controller looks at every replica; 0.1 s would find a lost one little earlier.
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
}
"""Variables that lower the CPU and memory of an idle service. Ray's defaults are made for thousands of tasks a second.

A cluster keeps Ray's defaults: its machines run other work too.
"""


STORE_CAP = "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES"
SHARED_MEMORY = "/dev/shm"  # noqa: S108
SMALLEST_STORE = 75 * 1024 * 1024
"""Bytes. Ray starts no smaller object store."""
CAPPED_STORE = 10**10
"""Bytes. Ray itself keeps a store that would be larger than this within shared memory."""
STORE_PART = 0.9
"""Of shared memory: other programs put a little there too."""


LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""With it Ray takes 127.0.0.1 for this machine's address, as on a Mac, and its servers listen there only."""


def default_profile(present: Mapping[str, str] = os.environ) -> Profile:
    """HAProxy comes as a Linux wheel, and finds a gateway on its own machine only."""
    return "throughput" if sys.platform == "linux" and not present.get("RAY_ADDRESS") else "plain"


def fitting(profile: Profile, host: str) -> Profile:
    """The profile, or the plain one for an address at which HAProxy would not find the gateway."""
    return profile if host in HAPROXY_HOSTS else "plain"


def environment(
    profile: Profile,
    folder: Path,
    port: int,
    present: Mapping[str, str],
    edge: EdgeSettings = DEFAULT_EDGE,
    host: str = LOOPBACK,
) -> dict[str, str]:
    """Variables to set before Ray starts. What the caller has set already wins.

    `folder` is this service's own place for HAProxy's files, so that two services on one machine do not meet. The service
    listens at `host` and `port`.
    """
    wanted = EVERYWHERE | ray_environment(present) | {VARIABLE: edge.model_dump_json()}
    if "RAY_ADDRESS" not in present:
        wanted |= ONE_MACHINE | LOOPBACK_ONLY | object_store(shared_memory(), present)
    if profile == "throughput":
        wanted |= _haproxy(folder, port, edge)
        if "RAY_ADDRESS" not in present:
            wanted[FRONT_HOST] = host
    return {name: value for name, value in wanted.items() if name not in present}


def ray_environment(present: Mapping[str, str]) -> dict[str, str]:
    """Variables for any Ray that Motet starts, to set before Ray is imported. What the caller has set already wins.

    Ray's token authentication is on, with a token of this run unless there is one already, or a cluster that has its own.
    """
    wanted = dict(ANY_RAY)
    if not any(name in present for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")):
        wanted["RAY_AUTH_TOKEN"] = secrets.token_hex(TOKEN_BYTES)
    return {name: value for name, value in wanted.items() if name not in present}


def node_environment(present: Mapping[str, str]) -> dict[str, str]:
    """Variables for a machine's part of a cluster and every replica on it. What the caller has set already wins."""
    wanted = {
        **EVERYWHERE,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # Ray starts no cluster with Macs otherwise
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": LARGEST_MESSAGE,
    }
    return {name: value for name, value in wanted.items() if name not in present}


def shared_memory() -> int:
    """Free bytes of this machine's shared memory; 0 where there is none, as on a Mac."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return 0
    return found.f_bsize * found.f_bavail


def object_store(shared: int, present: Mapping[str, str]) -> dict[str, str]:
    """The variable that keeps Ray's object store within `shared` bytes of shared memory, if that is large enough for one.

    Ray wants 30 % of the memory, and puts the store on the disk where shared memory is smaller, as in most containers.
    What the caller has set already wins.
    """
    cap = int(shared * STORE_PART)
    fits = SMALLEST_STORE <= cap < CAPPED_STORE and STORE_CAP not in present
    return {STORE_CAP: str(cap)} if fits else {}


def folder_for_sockets() -> str:
    """Where the folder of a service may be made: among the temporary files, or in `/tmp` if their folder has so long a name
    that the sockets in ours would not fit into an address."""
    usual = tempfile.gettempdir()
    return usual if len(usual) <= LONGEST_TEMPORARY else "/tmp"  # noqa: S108


def write_haproxy_program(folder: Path) -> None:
    """Writes the program that Ray Serve starts as HAProxy. It adds Motet's limits to the configuration first."""
    program = folder / HAPROXY_PROGRAM
    words = f"exec {shlex.quote(sys.executable)} -m serve_app.edge.haproxy"
    root = shlex.quote(str(Path(__file__).parents[1]))
    program.write_text(f'#!/bin/sh\nPYTHONPATH={root}${{PYTHONPATH:+:$PYTHONPATH}} {words} "$@"\n')
    program.chmod(0o700)


def _haproxy(folder: Path, port: int, edge: EdgeSettings) -> dict[str, str]:
    return {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": LARGEST_MESSAGE,
        **_own_gateway_ports(),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(folder / HAPROXY_PROGRAM),
        "RAY_SERVE_HAPROXY_MAXCONN": str(edge.connections + 2 * OWN_PAGES),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(edge.unread_s),
        # An HAProxy that is replaced would cut its streams after two minutes. The gateway bounds every request.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(LONGEST_STREAM_S),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / ADMIN_SOCKET),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        HAPROXY_FOLDER: str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port(port + STATS_OFFSET)),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port(port + METRICS_OFFSET)),
    }


def metrics_port(port: int) -> int:
    """The port of all metrics of a service on one machine: 8080 beside 8000, or another one if that is taken."""
    return free_port(port + ALL_METRICS_OFFSET)


def _own_gateway_ports() -> dict[str, str]:
    """Ports behind HAProxy that are this service's alone.

    Ray Serve binds them with SO_REUSEPORT and looks for conflicts within its own cluster only, so two services of one user
    that both took its usual 30000 (a gateway) or 8500 (where HAProxy goes without one) would get each other's requests.
    """
    blocks = [range(first, first + BLOCK_PORTS) for first in range(*GATEWAY_PORTS, BLOCK_PORTS)]
    # In random order: two services that start at the same time must not try the same block.
    for block in secrets.SystemRandom().sample(blocks, len(blocks)):
        if all(free_port(port) == port for port in block):
            return {
                "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(block[0]),
                "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(block[1]),
                "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(block[-1]),
            }
    cause = f"No {BLOCK_PORTS} adjacent ports between {GATEWAY_PORTS[0]} and {GATEWAY_PORTS[1]} are free."
    raise fail("unavailable", cause, "End other services on this machine, or use motet serve --profile plain.")


def free_port(wanted: int) -> int:
    """The wanted port, or another one if it is taken or too high. Raises `MotetError` (unavailable) if none is free."""
    for port in (wanted if wanted < 65536 else 0, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise fail("unavailable", "This machine has no free port.", "End other services on it.")
