"""Machines join with the documented command. Both are this machine, which Ray treats as two."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from serve_app.bench.running_service import free_loopback_port
from serve_app.cli.processes import kill
from tests.e2e.conftest import MARK, ROOT, STOP_S, Service, answers, config_of, marked_processes, titles, wait_for

pytestmark = pytest.mark.alone

JOIN_S = 60.0
PLACEMENTS = [{"hardware": {"kind": kind, "cpus": 0.1}} for kind in ("mlx", "cpu")]
MODELS = {"tone": {"engine": "simulated", "placements": PLACEMENTS}}


class Cluster:
    """Ray nodes on this machine, each started by `motet join`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_loopback_port()}"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MOTET_"))}
        self.environment = {**clean, "RAY_AUTH_TOKEN": uuid.uuid4().hex * 2}
        self.marks: list[str] = []

    def motet(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        environment = {**self.environment, "RAY_ADDRESS": self.address}
        command = [sys.executable, "-m", "serve_app.cli.main", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90)

    def join(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`motet join`, until its end."""
        mark = uuid.uuid4().hex
        self.marks.append(mark)
        with (self.folder / f"{mark[:6]}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "serve_app.cli.main", "join", *arguments],
                cwd=ROOT,
                env={**self.environment, MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def processes(self) -> list[psutil.Process]:
        """Every process of every node."""
        return [process for mark in self.marks for process in marked_processes(mark)]

    def end(self) -> None:
        """Kills every node."""
        kill(self.processes(), STOP_S)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    started = Cluster(tmp_path)
    started.join("--port", started.address.split(":")[1])
    wait_for(lambda: "raylet" in answers(started.processes(), psutil.Process.name), JOIN_S, "the first node")
    yield started
    started.end()


def config_in(folder: Path) -> Path:
    return config_of(folder, {"models": MODELS})


def placements(service: Service) -> dict[str, bool]:
    found: dict[str, bool] = httpx.get(f"{service.url}/readyz", timeout=30).json()["models"]["tone"]["placements"]
    return found


def said(service: Service) -> tuple[bytes, str]:
    body = {"model": "tone", "input": f"Something new: {uuid.uuid4().hex}.", "response_format": "pcm"}
    answer = httpx.post(f"{service.url}/v1/audio/speech", json=body, timeout=60)
    answer.raise_for_status()
    return answer.content, answer.headers["x-motet-placement"]


def test_a_machine_joins_by_one_command_and_the_service_leaves_the_cluster_clean(cluster: Cluster) -> None:
    config = config_in(cluster.folder)
    shared = {"RAY_ADDRESS": cluster.address, "RAY_AUTH_TOKEN": cluster.environment["RAY_AUTH_TOKEN"]}
    service = Service.start(config, cluster.folder, **shared)
    try:
        # The service runs without the machine that has not joined, and reports what it waits for.
        assert said(service)[1] == "tone@cpu"
        examined = cluster.motet("doctor", "--cluster", "--config", str(config))
        assert examined.returncode == 1, examined.stderr
        lines = [line for line in service.said.splitlines() if "tone@mlx" in line]
        (command,) = [line.partition("motet join ")[2] for line in lines]
        assert command.endswith("--hardware mlx")
        assert f"motet join {command}" in examined.stdout
        # The command from the report starts the replica.
        joined = cluster.join(*command.split())
        wait_for(lambda: placements(service)["mlx"], JOIN_S, "the replica on the machine that joined")
        on_second = titles(marked_processes(cluster.marks[-1])).values()
        assert len([title for title in on_second if "tone@mlx" in title]) == 1
        assert wait_for(lambda: said(service)[1] == "tone@mlx", JOIN_S, "an answer from there")
        assert cluster.motet("doctor", "--cluster", "--config", str(config)).returncode == 0
        # The machine leaves, and the service continues.
        os.killpg(joined.pid, signal.SIGKILL)
        kill(marked_processes(cluster.marks[-1]), STOP_S)
        assert {said(service)[1] for _ in range(5)} == {"tone@cpu"}
    finally:
        service.stop(signal.SIGTERM)
    # The service is gone, and the cluster still runs.
    left = titles(cluster.processes()).values()
    assert not [title for title in left if "ServeController" in title or "ServeReplica" in title or "Proxy" in title]
    assert [title for title in left if "gcs_server" in title]


def test_a_machine_without_the_token_is_told_what_to_do(cluster: Cluster, tmp_path: Path) -> None:
    environment = {name: value for name, value in cluster.environment.items() if name != "RAY_AUTH_TOKEN"}
    command = [sys.executable, "-m", "serve_app.cli.main", "join", cluster.address, "--hardware", "mlx"]
    ended = subprocess.run(
        command, cwd=ROOT, env={**environment, "HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert "ray get-auth-token --generate" in ended.stderr
