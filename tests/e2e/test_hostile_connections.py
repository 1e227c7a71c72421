"""What one client's connections can do to everyone: while it tries, the service lives, and a normal request is answered."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, count

import httpx
import psutil
import pytest

from serve_app.cli.processes import command_line
from serve_app.edge.errors import RETRY_AFTER_S
from serve_app.edge.haproxy_watch import BRIDGE

from .conftest import PROFILES, Service, answers, config_of, wait_for
from .health_watch import HealthWatch

pytestmark = pytest.mark.alone

GRACE_S = 2
"""How long headers and bodies may take here."""
WITHIN_S = 10.0
"""Of a deadline that passed: how long its answer may take on a busy machine."""
SOCKETS_S, PLAIN_SOCKETS_S = 1.0, 3.0
"""How long the front may be busy with a thousand WebSockets that come or go at once, on a busy machine; the second is Ray
Serve's own proxy."""
BACK_S = 60.0
"""How long a front that was killed may be away on a busy machine."""
TEXTS = count()
ODD_VALUES = (b"\xff", b"\x80\x81", b"", b"x" * 4000, b"two words", b"caf\xc3\xa9", b"0.0001", b"-1", b"?1")
ODD_HEADERS = (
    b"x-request-id",
    b"x-session-id",
    b"x_session_id",
    b"serve_multiplexed_model_id",
    b"serve-multiplexed-model-id",
    b"x-request-timeout-seconds",
    b"x-request-disconnect-disabled",
    b"x-serve-router-target",
    b"traceparent",
    b"tracestate",
    b"x-motet-early",
)


UPGRADE = (
    b"connection: upgrade",
    b"upgrade: websocket",
    b"sec-websocket-version: 13",
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
)


@pytest.fixture(scope="module", params=PROFILES)
def edge_service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A small service of each profile, with short deadlines."""
    folder = tmp_path_factory.mktemp(f"edge-{request.param}")
    settings = {
        "models": {"tone": {"engine": "simulated", "aliases": ["tts-1"]}},
        "limits": {"body_grace_s": GRACE_S},
        "edge": {"header_s": GRACE_S},
        "voices": {"folder": str(folder / "voices")},
    }
    config = config_of(folder, settings)
    running = Service.start(config, folder, profile=request.param)
    yield running
    assert running.alive, f"the service ended during the tests:\n{running.said}"
    running.stop(signal.SIGINT)


def has_haproxy(service: Service) -> bool:
    return any("haproxy" in command_line(process)[0] for process in service.processes() if command_line(process))


def listeners(service: Service) -> set[int]:
    """The processes that listen at the service's port."""
    found = set()
    for process in service.processes():
        for connection in chain.from_iterable(answers([process], lambda asked: asked.net_connections("tcp"))):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == service.port:
                found.add(process.pid)
    return found


def managers(service: Service) -> set[int]:
    """The processes that manage HAProxy."""
    found = service.processes()
    return {process.pid for process in found if "HAProxyManager" in " ".join(command_line(process))}


def replaced(service: Service, before: set[int]) -> bool:
    """Whether another single process manages HAProxy than `before`, and its HAProxy listens instead of the bridging one."""
    now, fronts = managers(service), listeners(service)
    if len(now) != 1 or not now.isdisjoint(before) or len(fronts) != 1:
        return False
    return BRIDGE not in " ".join(command_line(psutil.Process(*fronts)))


def speak(service: Service) -> None:
    """A normal request for speech, with a text that no request had before."""
    body = {"model": "tts-1", "input": f"This is text number {next(TEXTS)}.", "response_format": "pcm"}
    answer = httpx.post(f"{service.url}/v1/audio/speech", json=body, timeout=30)
    assert (answer.status_code, len(answer.content) > 0) == (200, True), answer.text


def is_ours(error: object) -> bool:
    """Whether a body has OpenAI's shape of errors."""
    return isinstance(error, dict) and set(error.get("error", ())) == {"message", "type", "param", "code"}


def lines_of(service: Service, *headers: bytes, method: bytes = b"GET", path: bytes = b"/livez") -> bytes:
    """A request's line and headers."""
    own = (b"host: 127.0.0.1:%d" % service.port, *headers)
    return method + b" " + path + b" HTTP/1.1\r\n" + b"".join(line + b"\r\n" for line in own) + b"\r\n"


@contextmanager
def connections(service: Service, number: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """As many connections on which this was sent, and no more."""
    with ExitStack() as stack:
        opened = []
        for _ in range(number):
            opened.append(stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=10)))
            opened[-1].sendall(sent)
        yield opened


def all_of(connection: socket.socket, seconds: float) -> bytes:
    """What comes until the other side closes. Fails if it does not, in that time."""
    connection.settimeout(seconds)
    received = b""
    with suppress(ConnectionResetError):  # it is closed then as well
        while part := connection.recv(65536):
            received += part
    return received


def parsed(answer: bytes) -> tuple[int, dict[bytes, bytes], object]:
    """An answer's status, its headers and its JSON."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    return int(first.split()[1]), headers, json.loads(body)


def check_given_up(held: list[socket.socket]) -> None:
    """Each gets an error of ours and is closed, once its time is over."""
    for connection in held:
        status, headers, error = parsed(all_of(connection, GRACE_S + WITHIN_S))
        assert (status, headers[b"content-type"], is_ours(error)) == (408, b"application/json", True), error


class TestHalfSentBodies:
    """F2: requests whose bodies stop in the middle."""

    def test_they_keep_no_one_out_and_are_given_up(self, edge_service: Service) -> None:
        upload = (b"content-type: application/json", b"content-length: 1000")
        half = lines_of(edge_service, *upload, method=b"POST", path=b"/v1/audio/speech") + b'{"model":'
        with HealthWatch("127.0.0.1", edge_service.port) as watch, connections(edge_service, 600, half) as held:
            speak(edge_service)
            check_given_up(held)
            speak(edge_service)
        watch.check()

    def test_an_upload_that_keeps_the_pace_may_take_longer_than_the_grace(self, edge_service: Service) -> None:
        body = json.dumps({"model": "tts-1", "input": "Slow.", "response_format": "pcm"}).encode()
        body += b" " * (40_000 - len(body))

        def slowly() -> Iterator[bytes]:
            for start in range(0, len(body), 4000):
                yield body[start : start + 4000]
                time.sleep(0.3)  # 13,000 bytes a second, for 3 s: behind by less than the grace

        headers = {"content-type": "application/json"}
        answer = httpx.post(f"{edge_service.url}/v1/audio/speech", content=slowly(), headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text


class TestHalfSentHeaders:
    """F3: connections whose requests never begin, or stop in their headers."""

    @pytest.mark.parametrize("sent", [b"GET /livez HTTP/1.1\r\nx-a: b", b""], ids=["half", "silent"])
    def test_they_keep_no_one_out_and_are_given_up(self, edge_service: Service, sent: bytes) -> None:
        with HealthWatch("127.0.0.1", edge_service.port) as watch, connections(edge_service, 4200, sent) as held:
            speak(edge_service)
            if sent and not has_haproxy(edge_service):
                check_given_up(held)
            else:  # HAProxy closes without a word what it cannot read as a request
                assert {all_of(connection, GRACE_S + WITHIN_S) for connection in held} == {b""}
            speak(edge_service)
        watch.check()

    def test_headers_that_trickle_are_given_up(self, edge_service: Service) -> None:
        with connections(edge_service, 20, b"GET /livez HTTP/1.1\r\n") as held:
            deadline = time.monotonic() + GRACE_S + WITHIN_S
            while held and time.monotonic() < deadline:
                for connection in held[:]:
                    connection.settimeout(0.01)
                    try:
                        connection.sendall(b"x-a: b\r\n")
                        connection.recv(4096)
                        held.remove(connection)
                    except TimeoutError:
                        pass
                    except OSError:
                        held.remove(connection)
            assert not held


class TestIdleWebSockets:
    """F3: WebSockets that are opened, send nothing and answer nothing, not even that they are closed."""

    def test_they_keep_no_one_out(self, edge_service: Service) -> None:
        upgrade = lines_of(edge_service, *UPGRADE, path=b"/v1/audio/speech/stream")
        with HealthWatch("127.0.0.1", edge_service.port) as watch, connections(edge_service, 1000, upgrade) as held:
            speak(edge_service)
            opened = [connection for connection in held if connection.recv(1024).startswith(b"HTTP/1.1 101 ")]
            speak(edge_service)
        assert len(opened) == 1000  # those that are too many are told so, and closed
        watch.check(SOCKETS_S if has_haproxy(edge_service) else PLAIN_SOCKETS_S)


class TestOddRequestId:
    """F4: headers that Ray Serve decodes, with bytes that it cannot."""

    @pytest.mark.parametrize("name", ODD_HEADERS)
    def test_odd_headers_are_no_error(self, edge_service: Service, name: bytes) -> None:
        with ThreadPoolExecutor(8) as pool:
            for value, answer in zip(
                ODD_VALUES, pool.map(lambda odd: self._answer(edge_service, name, odd), ODD_VALUES), strict=True
            ):
                status, headers, body = parsed(answer)
                assert (status, body) == (200, {"status": "alive"}), (value, answer)
                assert headers[b"x-request-id"].isascii()
                assert b"x-motet-early" not in headers

    @staticmethod
    def _answer(service: Service, name: bytes, value: bytes) -> bytes:
        line = name + b": " + value
        with connections(service, 1, lines_of(service, line, line, b"connection: close")) as (connection,):
            return all_of(connection, 30)

    def test_a_good_request_id_comes_back_with_every_answer(self, edge_service: Service) -> None:
        for path in ("/livez", "/v1/nowhere", "/v1/models"):
            answer = httpx.get(f"{edge_service.url}{path}", headers={"x-request-id": "mine-1"}, timeout=30)
            assert answer.headers["x-request-id"] == "mine-1"

    def test_a_websocket_with_odd_headers_is_opened(self, edge_service: Service) -> None:
        odd = tuple(name + b": \xff" for name in ODD_HEADERS)
        request = lines_of(edge_service, *UPGRADE, *odd, path=b"/v1/audio/speech/stream")
        with connections(edge_service, 1, request) as (connection,):
            assert connection.recv(4096).startswith(b"HTTP/1.1 101 ")


class TestControlHeaders:
    """F7: headers with which a client commands Ray Serve, and answers that the service does not make itself."""

    def test_orders_are_not_obeyed(self, edge_service: Service) -> None:
        orders = {
            "x-request-timeout-seconds": "0.0001",
            "x-request-disconnect-disabled": "?1",
            "serve_multiplexed_model_id": "m",
            "x-session-id": "s",
        }
        body = {"model": "tts-1", "input": f"This is text number {next(TEXTS)}.", "response_format": "pcm"}
        answer = httpx.post(f"{edge_service.url}/v1/audio/speech", json=body, headers=orders, timeout=30)
        assert answer.status_code == 200, answer.text

    @pytest.mark.parametrize(
        ("request_", "statuses"),
        [
            (b"NONSENSE\r\n\r\n", {400}),
            (b"GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n", {400}),
            (b"GET /%00\xff HTTP/1.1\r\nhost: x\r\n\r\n", {400}),
            (b"GET /livez HTTP/1.1\r\nhost: x\r\nx-long: " + b"x" * 100_000 + b"\r\n\r\n", {400, 431}),
            (b"POST /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", {400}),
        ],
        ids=["no HTTP", "a bad header", "a bad path", "a long header", "a negative length"],
    )
    def test_what_is_no_request_gets_an_error_of_ours(
        self, edge_service: Service, request_: bytes, statuses: set[int]
    ) -> None:
        with connections(edge_service, 1, b"") as (connection,):
            with suppress(OSError):  # it may be closed in the middle of a long one
                connection.sendall(request_)
            answer = all_of(connection, 30)
        if has_haproxy(edge_service) and answer == b"":
            return  # it closes without a word what it cannot read
        status, headers, error = parsed(answer)
        assert status in statuses
        assert headers[b"content-type"] == b"application/json"
        assert is_ours(error)

    def test_an_error_before_the_end_of_a_body_says_what_it_is_and_closes(self, edge_service: Service) -> None:
        too_long = (b"content-type: application/json", b"content-length: 99999999", b"x-request-id: mine-2")
        request = lines_of(edge_service, *too_long, method=b"POST", path=b"/v1/audio/speech") + b" " * 20_000
        with connections(edge_service, 1, request) as (connection,):
            connection.settimeout(30)
            answer = connection.recv(65536)
            while not answer.endswith(b"}}"):
                answer += connection.recv(65536)
            if has_haproxy(edge_service):
                assert all_of(connection, WITHIN_S) == b""
        status, headers, error = parsed(answer)
        assert (status, headers[b"x-request-id"], is_ours(error)) == (413, b"mine-2", True)
        assert b"body_too_large" in answer
        assert b"x-motet-early" not in headers


class TestDeadProxy:
    """F9: what listens for clients is killed."""

    def test_it_is_back_in_seconds_and_says_meanwhile_that_it_is_not_ready(self, edge_service: Service) -> None:
        (front,) = listeners(edge_service)
        before = managers(edge_service)
        os.kill(front, signal.SIGKILL)
        killed = time.monotonic()
        heard: list[httpx.Response] = []

        def back() -> bool:
            try:
                heard.append(httpx.get(f"{edge_service.url}/livez", timeout=30))
            except httpx.HTTPError:
                return False
            return heard[-1].status_code == 200

        wait_for(back, BACK_S, "the front to come back")
        print(f"back after {time.monotonic() - killed:.1f} s")
        for answer in heard[:-1]:
            assert (answer.status_code, answer.headers["retry-after"]) == (503, str(RETRY_AFTER_S[503])), answer.text
            assert is_ours(answer.json())
        speak(edge_service)
        if has_haproxy(edge_service):
            wait_for(lambda: replaced(edge_service, before), BACK_S, "Ray Serve to replace the manager")

    def test_another_haproxy_with_its_routes_is_there_before_ray_serve_notices(self, edge_service: Service) -> None:
        if not has_haproxy(edge_service):
            pytest.skip("Ray Serve's own proxy listens")
        (manager,) = managers(edge_service)
        (front,) = listeners(edge_service)
        os.kill(front, signal.SIGKILL)
        statuses: list[int] = []

        def answered() -> bool:
            with suppress(httpx.HTTPError):
                statuses.append(httpx.get(f"{edge_service.url}/livez", timeout=30).status_code)
            return bool(statuses)

        wait_for(answered, BACK_S, "an answer")
        assert managers(edge_service) == {manager}
        speak(edge_service)
        wait_for(lambda: answered() and replaced(edge_service, {manager}), BACK_S, "Ray Serve to replace the manager")
        assert set(statuses) == {200}
        speak(edge_service)
