"""Two gateways behind one entry: what clients send to either holds for both."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from deployments.replica.quota_ledger import LISTENS_S
from tests.unit.test_voice_store import CONSENT, clip

from .conftest import Service, config_of, cpu_seconds, titles

PER_MINUTE = 60
A_SECOND = PER_MINUTE / 60
CLIENTS = 4
PAUSE_S = 0.05
TLS = ssl.create_default_context()
"""Made once: each client would make its own, which takes longer than its request."""


def key(name: str, **settings: object) -> dict[str, object]:
    return {"sha256": [hashlib.sha256(name.encode()).hexdigest()], **settings}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with two gateways."""
    folder = tmp_path_factory.mktemp("gateways")
    arguments = {
        "models": {"identity": {"engine": "identity"}},
        "gateway_replicas": 2,
        "security": {"keys": {"alice": key("alice", requests_per_minute=PER_MINUTE), "bob": key("bob")}},
        "voices": {"folder": str(folder / "voices")},
        "jobs": {"folder": str(folder / "jobs")},
    }
    config = config_of(folder, arguments)
    running = Service.start(config, folder)
    yield running
    running.stop(signal.SIGTERM)


def gateways(service: Service) -> list[psutil.Process]:
    own = titles(service.processes()).items()
    return [psutil.Process(pid) for pid, title in own if title.startswith("ray::ServeReplica:motet:gateway")]


async def answers(service: Service, seconds: float) -> Counter[int]:
    """The statuses of alice's requests in some seconds, each on a connection of its own, so that either gateway gets it."""
    counted: Counter[int] = Counter()
    end_s = time.monotonic() + seconds

    async def ask() -> None:
        while time.monotonic() < end_s:
            async with httpx.AsyncClient(timeout=20, verify=TLS) as client:
                sent = await client.get(f"{service.url}/v1/models", headers={"authorization": "Bearer alice"})
            counted[sent.status_code] += 1
            await asyncio.sleep(PAUSE_S)

    await asyncio.gather(*(ask() for _ in range(CLIENTS)))
    return counted


async def opened(service: Service) -> float:
    """When the first request is answered. Until the new ledger lends, each is told how soon that is."""
    async with httpx.AsyncClient(timeout=20, verify=TLS) as client:
        while True:
            began_s = time.monotonic()
            sent = await client.get(f"{service.url}/v1/models", headers={"authorization": "Bearer alice"})
            if sent.status_code == 200:
                return began_s
            assert sent.status_code == 429 and int(sent.headers["retry-after"]) <= LISTENS_S
            await asyncio.sleep(PAUSE_S)


async def test_two_gateways_admit_what_one_would_also_when_the_ledger_is_killed(service: Service) -> None:
    assert len(gateways(service)) == 2
    before = [cpu_seconds(each) for each in gateways(service)]
    began_s = await opened(service)
    first = await answers(service, 15.0)
    there_was = PER_MINUTE + A_SECOND * (time.monotonic() - began_s)
    assert set(first) == {200, 429}
    assert 0.95 * there_was - 2 <= first[200] <= there_was
    assert all(now > then for now, then in zip(map(cpu_seconds, gateways(service)), before, strict=True))

    service.replica("quota-ledger").kill()
    killed_s = time.monotonic()
    second = await answers(service, 30.0)
    assert set(second) == {200, 429}
    assert first[200] + second[200] <= PER_MINUTE + A_SECOND * (time.monotonic() - began_s)
    assert second[200] >= 0.7 * A_SECOND * (time.monotonic() - killed_s)
    assert service.replica("quota-ledger").is_running()


def test_a_voice_that_one_gateway_got_is_known_to_the_other_at_once(service: Service, tmp_path: Path) -> None:
    bob = {"authorization": "Bearer bob"}
    for number in range(4):
        form, files = {"name": "Ada", "consent": CONSENT}, {"audio_sample": ("a.wav", clip(pitch=200.0 + 20 * number))}
        made = httpx.post(f"{service.url}/v1/audio/voices", data=form, files=files, headers=bob, timeout=60)
        assert made.status_code == 200, made.text
        path = f"{service.url}/v1/audio/voices/{made.json()['id']}"
        assert {httpx.get(path, headers=bob, timeout=20).status_code for _ in range(8)} == {200}
        assert httpx.delete(path, headers=bob, timeout=20).status_code == 200
        assert {httpx.get(path, headers=bob, timeout=20).status_code for _ in range(8)} == {404}
