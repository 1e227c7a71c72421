"""SIGTERM while streams are under way: they arrive whole, new requests are refused, and no process stays."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import PROFILES, STOP_S, Service, config_of, wait_for

LONG = "A long text that goes on. " * 16
SLOW = {"step_ms": 50, "character_ms": 50}


def config_in(folder: Path, **settings: object) -> Path:
    """A small service with a slow model, which speaks every text anew."""
    models = {"slow": {"engine": "simulated", "options": SLOW}}
    arguments = {"models": models, "speech": {"piece_cache_bytes": 1}, **settings}
    return config_of(folder, arguments)


@pytest.fixture(params=PROFILES)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    running = Service.start(config_in(tmp_path), tmp_path, profile=request.param)
    yield running
    running.kill()


def hear(service: Service, begun: threading.Event, pause_s: float = 0.0, **fields: str) -> bytes:
    """A long answer; sets `begun` at its first byte. With `pause_s` between its parts the client reads slowly."""
    body = {"model": "slow", "input": LONG, "response_format": "pcm", **fields}
    heard = bytearray()
    with (
        httpx.Client(timeout=120) as client,
        client.stream("POST", f"{service.url}/v1/audio/speech", json=body) as answer,
    ):
        answer.raise_for_status()
        for piece in answer.iter_raw():
            heard += piece
            begun.set()
            time.sleep(pause_s)
    return bytes(heard)


def test_sigterm_lets_streams_end_and_refuses_new_requests(service: Service) -> None:
    whole = hear(service, threading.Event())
    sound, events = threading.Event(), threading.Event()
    with ThreadPoolExecutor() as pool:
        listening = pool.submit(hear, service, sound)
        reading = pool.submit(hear, service, events, stream_format="sse")
        assert sound.wait(30) and events.wait(30)
        service.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "new requests are refused" in service.said, 10, "the drain")
        refused = httpx.get(f"{service.url}/v1/models", timeout=10)
        assert refused.status_code == 503, refused.text
        assert refused.json()["error"]["code"] == "draining"
        assert int(refused.headers["retry-after"]) > 0
        assert refused.headers["connection"] == "close"
        assert httpx.get(f"{service.url}/readyz", timeout=10).json()["status"] == "draining"
        assert httpx.get(f"{service.url}/livez", timeout=10).status_code == 200
        assert not listening.done() and not reading.done()
        assert listening.result() == whole
        assert b"speech.audio.done" in reading.result()
    assert service.process.wait(STOP_S) == 0
    assert service.processes() == []


def test_a_client_that_reads_slowly_gets_everything(service: Service) -> None:
    """Its answer leaves the gateway long before the client has it."""
    begun = threading.Event()
    whole = hear(service, begun)
    begun.clear()
    with ThreadPoolExecutor() as pool:
        listening = pool.submit(hear, service, begun, 0.1)
        assert begun.wait(30)
        service.process.send_signal(signal.SIGTERM)
        assert listening.result() == whole
    assert service.process.wait(STOP_S) == 0


@pytest.mark.parametrize("settings", [{}, {"drain_s": 1.0}], ids=["a second signal", "the limit"])
def test_streams_are_cut(settings: dict[str, object], tmp_path: Path) -> None:
    service = Service.start(config_in(tmp_path, **settings), tmp_path)
    begun = threading.Event()
    try:
        with ThreadPoolExecutor() as pool:
            listening = pool.submit(hear, service, begun)
            assert begun.wait(30)
            service.process.send_signal(signal.SIGTERM)
            wait_for(lambda: "new requests are refused" in service.said, 10, "the drain")
            if not settings:
                service.process.send_signal(signal.SIGINT)
            assert service.process.wait(STOP_S) == 0
            assert isinstance(listening.exception(), httpx.HTTPError)
        assert service.processes() == []
        assert "open requests end now" in service.said
    finally:
        service.kill()
