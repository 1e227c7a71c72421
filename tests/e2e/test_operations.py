"""The running service is updated by its configuration file, and no listener notices."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import ROOT, config_of, wait_for
from tests.load.local_cluster import LocalCluster, local_cluster

pytestmark = pytest.mark.alone

UPDATE_S = 90.0
LONG = "A long text that goes on. " * 48
OPTIONS = {"step_ms": 50, "character_ms": 50}
FASTER = {**OPTIONS, "step_ms": 10}


@dataclass
class Deployed:
    """A service on its own cluster."""

    cluster: LocalCluster
    port: int
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120)

    def deploy(self, models: dict[str, Any]) -> None:
        """`motet deploy`, with these models in the file."""
        config = config_of(self.cluster.folder, {"models": models}, port=self.port)
        done = subprocess.run(
            [sys.executable, "-m", "serve_app.cli.main", "deploy", "--config", str(config)],
            cwd=ROOT,
            env=self.cluster.service_environment,
            capture_output=True,
            text=True,
            timeout=UPDATE_S,
        )
        assert done.returncode == 0, done.stderr

    def replicas(self, model: str) -> set[int]:
        """The processes of a model's replicas."""
        return self.cluster.replicas(f"{model}@cpu")

    def say(self, model: str, text: str, seed: int = 0, begun: threading.Event | None = None) -> bytes:
        """A whole answer; sets `begun` at its first byte."""
        body = {"model": model, "input": text, "seed": seed, "response_format": "pcm"}
        heard = bytearray()
        with self.client.stream("POST", "/v1/audio/speech", json=body) as answer:
            answer.raise_for_status()
            for piece in answer.iter_bytes():
                heard += piece
                if begun is not None:
                    begun.set()
        return bytes(heard)

    def names(self) -> set[str]:
        """The models that clients see."""
        return {model["id"] for model in self.client.get("/v1/models").json()["data"]}

    def steps(self, model: str) -> tuple[int, int]:
        """The numbers of steps and of stepped items of a model's replica."""
        steps = self.client.get("/readyz").json()["models"][model]["steps"]
        return steps["steps"], steps["items"]

    @contextmanager
    def asked_all_the_time(self, model: str) -> Iterator[list[str]]:
        """Sends requests in a loop for as long as the context. Gives the list of errors."""
        wrong, stopped, seeds = list[str](), threading.Event(), iter(range(1, 1_000_000))

        def ask() -> None:
            while not stopped.is_set():
                try:
                    self.say(model, "Short.", next(seeds))
                except httpx.HTTPError as error:
                    wrong.append(repr(error))

        with ThreadPoolExecutor() as pool:
            asking = pool.submit(ask)
            try:
                yield wrong
            finally:
                stopped.set()
                asking.result()


@pytest.fixture
def deployed(unused_tcp_port: int) -> Iterator[Deployed]:
    with local_cluster() as cluster:
        cluster.start()
        cluster.join("cpu")
        yield Deployed(cluster, unused_tcp_port)


def model(**changes: Any) -> dict[str, Any]:
    hardware = {"kind": "cpu", "cpus": 0.1}
    return {
        "engine": "simulated",
        "options": OPTIONS,
        "placements": [{"hardware": hardware, "surge_percent": 100}],
        **changes,
    }


def test_models_change_while_streams_go_on(deployed: Deployed) -> None:
    deployed.deploy({"one": model(), "two": model()})
    one, two = deployed.replicas("one"), deployed.replicas("two")

    # Running replicas take changed steps and numbers of replicas.
    slim = {"max_batch_size": 1}
    deployed.deploy({"one": model(steps=slim), "two": model()})
    assert (deployed.replicas("one"), deployed.replicas("two")) == (one, two)
    before = deployed.steps("one")
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda seed: deployed.say("one", "Four at once.", seed), range(4)))
    steps, items = (now - then for now, then in zip(deployed.steps("one"), before, strict=True))
    assert steps == items > 0

    # A model is replaced and another added, while a stream of the old one is open and new ones arrive.
    begun = threading.Event()
    with deployed.asked_all_the_time("one") as wrong, ThreadPoolExecutor() as pool:
        listening = pool.submit(deployed.say, "one", LONG, 0, begun)
        assert begun.wait(30)
        deployed.deploy({"one": model(options=FASTER), "two": model(), "three": model()})
        wait_for(lambda: deployed.replicas("one") - one, UPDATE_S, "the new replica")
        heard = listening.result()
    assert wrong == []
    assert heard == deployed.say("one", LONG)
    assert deployed.replicas("two") == two
    assert deployed.names() == {"one", "two", "three"}

    # A model is removed.
    deployed.deploy({"two": model(), "three": model()})
    assert deployed.names() == {"two", "three"}
    assert deployed.replicas("two") == two
    wait_for(lambda: not deployed.replicas("one"), UPDATE_S, "the replicas of the model that went")
