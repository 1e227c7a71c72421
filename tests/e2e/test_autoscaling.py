"""Replicas follow the load in the real service: from none to the cheap class, then the expensive one, and back to none."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Service, config_of, wait_for

pytestmark = pytest.mark.alone

COME_S, GO_S = 60.0, 60.0
CLIENTS = 6
LONG = "A long text that goes on. " * 6
SCALING = {
    "max_replicas": 1,
    "target_queued_seconds_of_audio": 10,
    "look_back_s": 3,
    "up_after_s": 0,
    "down_after_s": 1,
}
MODEL = {
    "engine": "simulated",
    "options": {"step_ms": 100, "character_ms": 30},
    "placements": [
        {"hardware": {"kind": "mlx", "cpus": 0.1}, "autoscaling": {**SCALING, "cost": 2, "zero_after_s": 1}},
        {"hardware": {"kind": "cpu", "cpus": 0.1}, "autoscaling": {**SCALING, "cost": 1, "zero_after_s": 6}},
    ],
}


@pytest.fixture
def elastic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("elastic")
    config = config_of(folder, {"models": {"tone": MODEL}})
    running = Service.start(config, folder)
    yield running
    running.stop(signal.SIGTERM)


def test_replicas_come_in_the_order_of_their_cost_and_all_go_again(elastic: Service) -> None:
    seeds = itertools.count()

    with httpx.Client(base_url=elastic.url, timeout=120) as client:

        def report() -> dict[str, Any]:
            answer = client.get("/readyz")
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()["models"]["tone"]
            return found

        def say(text: str) -> str:
            body = {"model": "tone", "input": text, "seed": next(seeds), "response_format": "pcm"}
            answer = client.post("/v1/audio/speech", json=body)
            answer.raise_for_status()
            placement: str = answer.headers["x-motet-placement"]
            return placement

        # A readiness check wakes no class; a speech request wakes the cheapest.
        assert [report()["asleep"] for _ in range(3)] == [["mlx", "cpu"]] * 3
        assert say("Good morning.") == "tone@cpu"
        assert report()["placements"] == {"mlx": False, "cpu": True}

        # More demand than one class holds starts the next class.
        stopped = threading.Event()

        def listen() -> set[str]:
            heard = set()
            while not stopped.is_set():
                heard.add(say(LONG))
            return heard

        with ThreadPoolExecutor(CLIENTS) as pool:
            listening = [pool.submit(listen) for _ in range(CLIENTS)]
            try:
                wait_for(lambda: report()["placements"]["mlx"], COME_S, "the dear class")
            finally:
                stopped.set()
            heard = set().union(*(listener.result() for listener in listening))
        assert "tone@cpu" in heard
        assert say(LONG).startswith("tone@")

        # Without demand the expensive class ends first, then the cheap one.
        wait_for(lambda: not report()["placements"]["mlx"], GO_S, "the dear class to go")
        assert report()["placements"]["cpu"]
        wait_for(lambda: report().get("asleep") == ["mlx", "cpu"], GO_S, "the cheap class to go")
        assert say("And good morning again.") == "tone@cpu"
