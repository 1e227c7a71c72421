"""Models are loaded into a running service and unloaded again, and nothing else notices."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest

from .conftest import Service, config_of, titles, wait_for

KEYS = {"root": {"admin": True}, "user": {}}
SIMULATED = {"engine": "simulated", "options": {"step_ms": 50, "chunk_ms": 160}}
PLACED = {**SIMULATED, "placements": [{"hardware": {"kind": "cpu", "cpus": 0}}]}
LONG = "This text is long enough to be spoken while models come and go. " * 12
READY_S = 40.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A small service with an admin key and a usual one."""
    folder = tmp_path_factory.mktemp("loading")
    keys = {name: {"sha256": [hashlib.sha256(name.encode()).hexdigest()], **more} for name, more in KEYS.items()}
    arguments = {"models": {"tone": PLACED}, "security": {"keys": keys}}
    config = config_of(folder, arguments)
    running = Service.start(config, folder)
    yield running
    assert running.alive, running.said
    running.stop(signal.SIGTERM)


def ask(service: Service, method: str, path: str, key: str = "root", **content: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.request(method, f"{service.url}{path}", headers=headers, timeout=120, **content)


def speech(service: Service, model: str, text: str, seed: int = 0) -> httpx.Response:
    """Spoken text. The sound does not depend on the seed, and the gateway's cache does."""
    body = {"model": model, "input": text, "response_format": "pcm", "seed": seed}
    return ask(service, "POST", "/v1/audio/speech", "user", json=body)


@contextmanager
def long_stream(service: Service, model: str) -> Iterator[Iterator[bytes]]:
    """The long text while it is spoken, with a seed of its own, so that no cache answers."""
    body = {"model": model, "input": LONG, "response_format": "pcm", "seed": 1}
    headers = {"authorization": "Bearer user"}
    with httpx.stream("POST", f"{service.url}/v1/audio/speech", json=body, headers=headers, timeout=120) as stream:
        yield stream.iter_bytes()


def loaded(service: Service) -> dict[str, dict[str, Any]]:
    return {each["id"]: each for each in ask(service, "GET", "/v1/admin/models").json()["data"]}


def replicas(service: Service) -> dict[str, int]:
    """The process of each replica, by its deployment."""
    own = {pid: title for pid, title in titles(service.processes()).items() if title.startswith("ray::ServeReplica:")}
    return {title.split(":")[4].partition(".")[0].partition(" ")[0]: pid for pid, title in own.items()}


def load(service: Service, name: str, **fields: Any) -> dict[str, Any]:
    """Loads a model, and waits until it is ready or has failed."""
    answer = ask(service, "POST", "/v1/models", json={"id": name, **PLACED, **fields})
    assert (answer.status_code, answer.json()["state"]) == (202, "loading"), answer.text
    return wait_for(lambda: (f := loaded(service)[name])["state"] != "loading" and f, READY_S, f"the model {name}")


@pytest.fixture(scope="module")
def alone(service: Service) -> bytes:
    """The long text, spoken while nothing else happens. It sounds the same with each of the models."""
    return speech(service, "tone", LONG).content


def test_a_model_comes_and_goes_beside_a_stream(service: Service, alone: bytes) -> None:
    before = replicas(service)
    assert set(before) == {"gateway", "tone@cpu"}
    with long_stream(service, "tone") as parts:
        first = next(parts)
        assert load(service, "bird", aliases=["lark"])["state"] == "ready"
        assert [speech(service, name, "Hello.").status_code for name in ("bird", "lark")] == [200, 200]
        assert first + b"".join(parts) == alone
    present = replicas(service)
    assert {name: present[name] for name in before} == before
    assert ask(service, "POST", "/v1/models", json={"id": "bird", **PLACED}).json()["error"]["code"] == "model_exists"
    listed = {each["id"]: each["motet"] for each in ask(service, "GET", "/v1/models", "user").json()["data"]}
    assert (listed["bird"]["state"], listed["bird"]["placements"], "state" in listed["tone"]) == (
        "ready",
        ["cpu"],
        False,
    )
    placements = {each["name"]: each for each in ask(service, "GET", "/v1/status", "user").json()["placements"]}
    assert placements["bird@cpu"]["state"] == "ready" and placements["bird@cpu"]["steps"]["items"] > 0


def test_a_new_gateway_knows_the_model(service: Service) -> None:
    gateway = replicas(service)["gateway"]
    psutil.Process(gateway).kill()
    wait_for(lambda: replicas(service).get("gateway", gateway) != gateway, READY_S, "another gateway")
    wait_for(lambda: ask(service, "GET", "/readyz").status_code == 200, READY_S, "the new gateway")
    assert speech(service, "lark", "Hello.").status_code == 200
    assert loaded(service)["bird"]["state"] == "ready"


def test_a_model_that_cannot_be_loaded_changes_nothing(service: Service) -> None:
    before = replicas(service)
    broken = load(service, "broken", engine="hibari", source="wheel:no-such-wheel", options={})
    assert broken["state"] == "failed"
    assert "no-such-wheel" in broken["cause"] and "pip install" in broken["cause"]
    assert speech(service, "broken", "Hello.").status_code == 404
    assert ask(service, "GET", "/readyz").status_code == 200
    assert ask(service, "DELETE", "/v1/models/broken").status_code == 202
    wait_for(lambda: "broken" not in loaded(service), READY_S, "the end of what was left")
    assert replicas(service) == before


def test_an_unloaded_model_finishes_what_it_began(service: Service, alone: bytes) -> None:
    memory = replicas(service)["bird@cpu"]
    with long_stream(service, "bird") as parts:
        first = next(parts)
        assert ask(service, "DELETE", "/v1/models/bird").status_code == 202
        assert [speech(service, name, "Hello.").status_code for name in ("bird", "lark")] == [404, 404]
        assert loaded(service)["bird"]["open_requests"] == 1
        assert first + b"".join(parts) == alone
    wait_for(lambda: not loaded(service), READY_S, "the end of the model")
    wait_for(lambda: not psutil.pid_exists(memory), READY_S, "the end of its process")
    assert set(replicas(service)) == {"gateway", "tone@cpu"}
    assert speech(service, "tone", "Hello.").status_code == 200
