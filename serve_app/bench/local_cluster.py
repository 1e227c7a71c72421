"""A cluster of several Ray nodes on this machine, which Ray cannot tell from several machines.

Nodes join as machines do. Or a fleet of them comes and goes as Ray's autoscaler decides, which starts processes here instead
of renting machines. Nothing outside this cluster is touched, and nothing of it is left.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from cluster.hardware import Kind, node_offer
from deployments.errors import fail
from serve_app import joining
from serve_app.bench.running_service import free_loopback_port

MARK = "MOTET_LOCAL_CLUSTER"
"""A variable that every process of a cluster inherits."""

STORE_BYTES = 80 * 1024 * 1024
HEAD_NODE = "f" * 51 + "00000"
HEAD_TYPE = "ray.head.default"
"""By this number and this name Ray's fake machines know their head."""

JOINED = "block forever"
"""What `ray start --block` says once its node is part of the cluster."""

NOTHING_TO_SET_UP = ("setup_commands", "head_setup_commands", "worker_setup_commands", "cluster_synced_files")
"""What Ray's autoscaler expects to be told of every kind of machine but its own."""

IDLE_MINUTES = 0.05
POLL_S = 0.1
START_S = 60.0

PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"


class LocalCluster:
    """Nodes of this machine. The first has room for no replica with a model, so each class has nodes of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_loopback_port()
        self.address = f"127.0.0.1:{self.port}"
        self._mark = secrets.token_hex(16)
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MOTET_"))}
        own = {"RAY_AUTH_TOKEN": secrets.token_hex(32), MARK: self._mark}
        self._environment = {**clean, **joining.environment(clean), **own}

    @property
    def service_environment(self) -> dict[str, str]:
        """For a `motet serve` on this cluster."""
        return {**self._environment, "RAY_ADDRESS": self.address}

    def start(self, fleet: Mapping[Kind, int] | None = None) -> None:
        """The first node. With a `fleet` nodes come when replicas ask for them, at most so many of each class."""
        command = joining.node_command(None, "cpu", self.port)
        command += ["--num-cpus=0", "--node-ip-address=127.0.0.1", f"--temp-dir={self.folder / 'ray'}"]
        environment = {}
        if fleet is not None:
            settings = self.folder / "fleet.json"
            settings.write_text(json.dumps(self._fleet(fleet)))
            command.append(f"--autoscaling-config={settings}")
            environment = {
                "RAY_FAKE_CLUSTER": "1",
                "RAY_enable_autoscaler_v2": "1",  # the one that heeds labels
                "RAY_CLOUD_INSTANCE_ID": HEAD_NODE,
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_NODE,
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            }
        self._start("head", command, environment)

    def join(self, *kinds: Kind) -> None:
        """A node of each class, one after the other: Ray does not start two at once on one machine."""
        for kind in kinds:
            machine = _machine(kind)
            command = [*joining.node_command(self.address, kind, self.port), f"--num-cpus={machine['CPU']}"]
            self._start(kind, [*command, "--num-gpus=1"] if kind == "cuda" else command, {})

    def nodes(self) -> Counter[str]:
        """How many nodes there are of each class, without the first."""
        return Counter(kind for process in self._processes() if (kind := _class_of(process)))

    def replicas(self, deployment: str) -> set[int]:
        """The processes of a deployment's replicas, those included that are about to end."""
        title = f"ray::ServeReplica:motet:{deployment}"
        return {process.pid for process in self._processes() if " ".join(_words(process)).startswith(title)}

    def kill(self, kind: Kind) -> int:
        """Ends a node of that class and everything on it at once, as if its plug were pulled. Returns how many processes."""
        node = next(process for process in self._processes() if _class_of(process) == kind)
        everything = [node, *node.children(recursive=True)]
        for process in everything:
            process.kill()
        psutil.wait_procs(everything, timeout=START_S)
        return len(everything)

    def stop(self) -> None:
        """Ends every process."""
        while left := self._processes():
            for process in left:
                process.kill()
            psutil.wait_procs(left, timeout=START_S)

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

    def _start(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        """Starts a node and waits until it is part of the cluster."""
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

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found


@contextmanager
def local_cluster() -> Iterator[LocalCluster]:
    """A cluster that has not been started. Nothing of it is left afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="motet-"))
    cluster = LocalCluster(folder)
    try:
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _machine(kind: Kind) -> dict[str, float]:
    """What a node offers. Only one of class cpu has CPUs, so that replicas of that class land on no other."""
    gpus = {"GPU": 1} if kind == "cuda" else {}
    offer = {"CPU": int(kind == "cpu"), **gpus, **node_offer((kind,))["resources"]}
    return offer | {"object_store_memory": STORE_BYTES}


def _class_of(process: psutil.Process) -> Kind | None:
    """The class of the node whose raylet this is, if it is one and not the first."""
    words = _words(process)
    if not words or not words[0].endswith("raylet/raylet"):
        return None
    offers = next((word.partition("=")[2].split(",") for word in words if "static_resource_list" in word), [])
    wanted: Mapping[str, Kind] = {"GPU": "cuda", "mlx": "mlx", "CPU": "cpu"}
    found = (kind for offer, kind in wanted.items() if offer in offers and float(offers[offers.index(offer) + 1]) > 0)
    return next(found, None)


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
