"""A service that stops refuses new requests and finishes those that it has."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster import ray_private
from deployments.engines.protocols import SpeechRequest
from deployments.replica.wire import PackedChunk
from serve_app.cli import draining, serve_process
from serve_app.cli.draining import OpenRequests
from serve_app.edge import haproxy_sessions
from serve_app.gateway.draining import Drain
from tests.unit.fakes import ToneSynthesizer
from tests.unit.test_api import Bench
from tests.unit.test_speech_sessions import Socket


class Held(ToneSynthesizer):
    """A model that waits before it speaks."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.may_speak = asyncio.Event()

    async def speak(self, request: SpeechRequest) -> AsyncIterator[PackedChunk]:
        self.asked.set()
        await self.may_speak.wait()
        async for chunk in super().speak(request):
            yield chunk


async def test_a_drain_refuses_new_requests_and_finishes_the_open_one() -> None:
    held = Held()
    bench = Bench(held)
    speaking = asyncio.create_task(bench.speak())
    await held.asked.wait()
    assert bench.service.drain.begin() == 1
    for refused in (await bench.speak(), await bench.client.get("/"), await bench.client.get("/v1/models")):
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
        assert int(refused.headers["retry-after"]) > 0
        assert refused.headers["connection"] == "close"
    assert (await bench.client.get("/livez")).status_code == 200
    assert bench.service.drain.begin() == 1
    held.may_speak.set()
    assert (await speaking).content == (await Bench().speak()).content
    assert bench.service.drain.begin() == 0


async def test_readiness_fails_while_the_service_drains() -> None:
    bench = Bench()
    bench.service.drain.begin()
    answer = await bench.client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "draining")


async def test_websockets_are_refused_too() -> None:
    bench = Bench()
    bench.service.drain.begin()
    connection = Socket(bench, {})
    assert (await connection.received())["status"] == 503
    await connection.over()


def test_a_request_that_fails_is_no_longer_open() -> None:
    drain = Drain()
    with pytest.raises(RuntimeError, match="fails"), drain.one():
        raise RuntimeError("fails")
    assert drain.begin() == 0


def counted(answers: list[list[int] | Exception], front: Callable[[], int] = lambda: 0) -> list[tuple[int, bool]]:
    """What is counted while the gateways give these answers, ten seconds apart, and whether it is known."""
    given, now_s = iter(answers), [0.0]

    def drain(method: str, timeout_s: float) -> list[int]:
        now_s[0] += 10.0
        answer = next(given)
        if isinstance(answer, Exception):
            raise answer
        return answer

    requests = OpenRequests(drain, front, lambda: now_s[0])
    return [(requests.count(), requests.known) for _ in answers]


def test_requests_of_all_gateways_count_and_then_those_in_front_of_them() -> None:
    left = iter([1, 0])
    assert counted([[2, 1], [0, 0], [0, 0]], lambda: next(left)) == [(3, True), (1, True), (0, True)]


def test_gateways_that_do_not_answer_are_waited_for_until_they_are_lost() -> None:
    assert counted([TimeoutError(), [1], TimeoutError(), []]) == [(1, False), (1, True), (1, False), (0, False)]
    assert counted([[], []]) == [(1, False), (0, False)]


@pytest.fixture
def never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that stays open."""
    monkeypatch.setattr(ray_private, "deployment_calls", lambda *_: lambda method, timeout_s: [1])
    monkeypatch.setattr(draining, "POLL_S", 0.0)


@pytest.mark.usefixtures("never_ends")
def test_a_second_signal_and_the_limit_end_the_wait(capsys: pytest.CaptureFixture[str]) -> None:
    at_once = threading.Event()
    draining.drain("motet", 0.0, at_once)
    at_once.set()
    draining.drain("motet", 600.0, at_once)
    said = capsys.readouterr().out
    assert said.count("1 open ones may take") == said.count("1 open requests end now.") == 2


def test_the_first_signal_asks_and_the_second_ends_at_once() -> None:
    stop = serve_process.StopSignals()
    stop.ready.set()
    stop._stop()
    assert stop.asked.is_set() and not stop.at_once.is_set()
    stop._stop()
    assert stop.at_once.is_set()


def test_before_the_service_is_ready_a_signal_ends_the_start() -> None:
    with pytest.raises(KeyboardInterrupt):
        serve_process.StopSignals()._stop()


SESSIONS = """0x7f: proto=tcpv4 src=127.0.0.1:4 fe=http_frontend be=http-motet srv=a ts=00
0x8f: proto=tcpv4 src=127.0.0.1:5 fe=http_frontend be=http-motet srv=a ts=00
0x9f: proto=unix_stream src=unix:1 fe=GLOBAL be=<NONE> srv=<none> ts=00
"""


@contextmanager
def haproxy_that_says(text: str, path: Path) -> Iterator[None]:
    """A socket that answers one command."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen()

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(100) == b"show sess\n"
                connection.sendall(text.encode())

        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join()


def test_sessions_of_the_services_port_are_counted(tmp_path: Path) -> None:
    assert haproxy_sessions.open_requests(tmp_path) == 0
    (tmp_path / "node").mkdir()
    with haproxy_that_says(SESSIONS, tmp_path / "node" / "admin.sock"):
        assert haproxy_sessions.open_requests(tmp_path) == 2
    assert haproxy_sessions.open_requests(tmp_path) == 0  # nobody listens any more
