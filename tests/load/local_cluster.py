"""A cluster of several Ray nodes on this machine, which Ray treats as several machines.

Nodes join as machines do. Or a fleet of them comes and goes as Ray's autoscaler decides, which starts processes here instead
of renting machines. With a Redis beside it the first node can be lost and come back. Nothing outside this cluster is
touched, and nothing of it is left.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster import join
from cluster.hardware import Kind, node_offer
from deployments.errors import fail
from serve_app import profiles
from serve_app.bench.running_service import free_loopback_port
from serve_app.cli.processes import command_line, descendants, kill, with_variable

MARK = "MOTET_LOCAL_CLUSTER"
"""A variable that every process of a cluster inherits."""

STORE_BYTES = 80 * 1024 * 1024
HEAD_NODE = "f" * 51 + "00000"
HEAD_TYPE = "ray.head.default"
"""By this number and this name Ray's fake machines know their head."""

JOINED = "block forever"
"""What `ray start --block` says once its node is part of the cluster."""

NOTHING_TO_SET_UP = ("setup_commands", "head_setup_commands", "worker_setup_commands", "cluster_synced_files")
"""What Ray's autoscaler needs to know of every kind of machine but its own."""

ADDRESS_FILE = "ray_current_cluster"
"""Where Ray notes which cluster was started last on a machine."""

RECONNECT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "600"}
"""How long a node without its head waits for it. Ray's own minute may be less than a machine takes to come back."""

IDLE_MINUTES = 0.05
POLL_S = 0.1
START_S = 60.0

PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"


@dataclass(frozen=True, slots=True)
class RedisStore:
    """Where a head keeps the cluster's state, so that it outlives the head."""

    port: int
    password: str


class LocalCluster:
    """Nodes of this machine. The first has room for no replica with a model, so each class has nodes of its own. With a
    `store` the others outlive the first."""

    def __init__(self, folder: Path, store: RedisStore | None = None) -> None:
        self.folder = folder
        self._store = store
        self._first: psutil.Process | None = None
        self.port = free_loopback_port()
        self.address = f"127.0.0.1:{self.port}"
        self._mark = secrets.token_hex(16)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MOTET_"))}
        own = {"RAY_AUTH_TOKEN": secrets.token_hex(32), MARK: self._mark}
        self._environment = {**clean, **profiles.node_environment(clean), **own, **(RECONNECT if store else {})}

    @property
    def service_environment(self) -> dict[str, str]:
        """For a `motet serve` on this cluster."""
        return {**self._environment, "RAY_ADDRESS": self.address}

    def start(self, fleet: Mapping[Kind, int] | None = None) -> None:
        """The first node, for the first time or again. With a `fleet` nodes come when replicas ask for them, at most so many
        of each class."""
        command = join.node_command(None, "cpu", self.port)
        command += ["--num-cpus=0", "--node-ip-address=127.0.0.1", f"--temp-dir={self.folder / 'ray'}"]
        environment = {}
        if self._store is not None:
            command.append(f"--redis-password={self._store.password}")
            environment = {"RAY_REDIS_ADDRESS": f"127.0.0.1:{self._store.port}"}
            # Ray takes a node here that knows this address for the head itself, which on a machine of its own it would not.
            (self.folder / "ray" / ADDRESS_FILE).unlink(missing_ok=True)
        if fleet is not None:
            settings = self.folder / "fleet.json"
            settings.write_text(json.dumps(self._fleet(fleet)))
            command.append(f"--autoscaling-config={settings}")
            environment |= {
                "RAY_FAKE_CLUSTER": "1",
                "RAY_enable_autoscaler_v2": "1",  # the version that supports labels
                "RAY_CLOUD_INSTANCE_ID": HEAD_NODE,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_NODE,
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            }
        self._first = psutil.Process(self._start("head", command, environment))

    def join(self, *kinds: Kind) -> None:
        """A node of each class, one after the other: Ray does not start two at once on one machine."""
        for kind in kinds:
            machine = _machine(kind)
            command = [*join.node_command(self.address, kind, self.port), f"--num-cpus={machine['CPU']}"]
            self._start(kind, [*command, "--num-gpus=1"] if kind == "cuda" else command, {})

    def nodes(self) -> Counter[str]:
        """How many nodes there are of each class, without the first."""
        return Counter(kind for process in self._processes() if (kind := _class_of(process)))

    def replicas(self, deployment: str) -> set[int]:
        """The processes of a deployment's replicas, those included that are about to end."""
        title = f"ray::ServeReplica:motet:{deployment}"
        return {process.pid for process in self._processes() if " ".join(command_line(process)).startswith(title)}

    def kill(self, kind: Kind) -> int:
        """Ends a node of that class and everything on it at once, as if its plug were pulled. Returns how many processes."""
        first = next(process for process in self._processes() if _class_of(process) == kind)
        return kill(_family(first), START_S)

    def kill_first(self) -> int:
        """The same for the first node."""
        return kill(self._of_first(), START_S)

    def ways_in(self, port: int) -> int:
        """How many processes listen at `port`: one a node."""
        return sum(_sockets(process, port) is not None for process in self._processes())

    def taken_by_first(self, port: int, client: int) -> bool:
        """Waits until a node takes the connection between a client's port and its own `port`; whether that is the first."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            first = {process.pid for process in self._of_first()}
            for process in self._processes():
                if client in (_sockets(process, port) or ()):
                    return process.pid in first
            time.sleep(POLL_S)
        raise fail("unavailable", f"Nobody took a connection to port {port}.")

    def stop(self) -> None:
        """Ends every process."""
        while left := self._processes():
            for process in left:
                process.kill()
            psutil.wait_procs(left, timeout=START_S)

    def _of_first(self) -> list[psutil.Process]:
        return _family(self._first) if self._first else []

    def _fleet(self, most: Mapping[Kind, int]) -> dict[str, Any]:
        types: dict[str, Any] = {
            kind: {
                "resources": _machine(kind),
                "labels": node_offer((kind,))["labels"],
                "node_config": {},
                "min_workers": 0,
                "max_workers": count,
            }
            for kind, count in most.items()
        }
        types[HEAD_TYPE] = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
        provider = {"type": "external", "module": PROVIDER, "gcs_address": self.address, "head_node_id": HEAD_NODE}
        switches = dict.fromkeys(("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check"), True)
        return {
            "cluster_name": "motet",
            "max_workers": sum(most.values()),
            "idle_timeout_minutes": IDLE_MINUTES,
            "provider": {**provider, **switches, "launch_multiple": True},
            "available_node_types": types,
            "head_node_type": HEAD_TYPE,
            **{name: [] for name in NOTHING_TO_SET_UP},
        }

    def _start(self, name: str, command: list[str], environment: Mapping[str, str]) -> int:
        """Starts a node and waits until it is part of the cluster. Returns the process that all of it descends from."""
        log = self.folder / f"{name}-{secrets.token_hex(3)}.log"
        with log.open("wb") as output:
            node = subprocess.Popen(
                [*command, f"--object-store-memory={STORE_BYTES}"],
                env={**self._environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while JOINED not in log.read_text():
            if node.poll() is not None or time.monotonic() > deadline:
                raise fail("unavailable", f"The node {name} did not start:\n{log.read_text()[-1000:]}")
            time.sleep(POLL_S)
        return node.pid

    def _processes(self) -> list[psutil.Process]:
        return list(with_variable(MARK, self._mark))


@contextmanager
def redis_store() -> Iterator[RedisStore]:
    """A Redis on loopback that keeps everything in memory. Raises `MotetError` where none is installed."""
    program = shutil.which("redis-server")
    if program is None:
        raise fail("unavailable", "There is no redis-server on this machine.", "Run apt-get install redis-server.")
    store = RedisStore(free_loopback_port(), secrets.token_hex(32))
    settings = f"bind 127.0.0.1\nport {store.port}\nrequirepass {store.password}\nsave ''\n"
    quiet = subprocess.DEVNULL
    with subprocess.Popen([program, "-"], stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, text=True) as redis:
        try:
            assert redis.stdin is not None
            redis.stdin.write(settings)  # not in the command line, which everybody can read
            redis.stdin.close()
            _wait_until_listening(store.port)
            yield store
        finally:
            redis.kill()


def _wait_until_listening(port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise fail("unavailable", f"Nobody listens on port {port}: {error}") from error
            time.sleep(POLL_S)


@contextmanager
def local_cluster(store: RedisStore | None = None) -> Iterator[LocalCluster]:
    """A cluster that has not been started. Nothing of it is left afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="motet-"))
    cluster = LocalCluster(folder, store)
    try:
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *descendants(process.pid)]


def _sockets(process: psutil.Process, port: int) -> set[int] | None:
    """The ports of the clients that a process has at its own `port`, or None when it does not listen there."""
    try:
        here = [socket for socket in process.net_connections("tcp") if socket.laddr and socket.laddr.port == port]
    except psutil.Error:
        return None
    if not any(socket.status == psutil.CONN_LISTEN for socket in here):
        return None
    return {socket.raddr.port for socket in here if socket.raddr}


def _machine(kind: Kind) -> dict[str, float]:
    """What a node offers. Only one of class cpu has CPUs, so that replicas of that class land on no other."""
    gpus = {"GPU": 1} if kind == "cuda" else {}
    offer = {"CPU": int(kind == "cpu"), **gpus, **node_offer((kind,))["resources"]}
    return offer | {"object_store_memory": STORE_BYTES}


def _class_of(process: psutil.Process) -> Kind | None:
    """The class of the node whose raylet this is, if it is one and not the first."""
    words = command_line(process)
    if not words or not words[0].endswith("raylet/raylet"):
        return None
    offers = next((word.partition("=")[2].split(",") for word in words if "static_resource_list" in word), [])
    wanted: Mapping[str, Kind] = {"GPU": "cuda", "mlx": "mlx", "CPU": "cpu"}
    found = (kind for offer, kind in wanted.items() if offer in offers and float(offers[offers.index(offer) + 1]) > 0)
    return next(found, None)
