"""Deadlines and bounds of the connections of Ray Serve's own HTTP servers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from serve_app.edge import protocol
from serve_app.edge.protocol import Connections, EdgeProtocol
from serve_app.edge.settings import OTHER_FILES, EdgeSettings
from tests.unit.jumping_clock import now, run

WHOLE = b"GET / HTTP/1.1\r\nhost: motet\r\n\r\n"
HALF = b"GET / HTTP/1.1\r\nhost: m"
UPLOAD = b"POST / HTTP/1.1\r\nhost: motet\r\ncontent-length: 9\r\n\r\nx"
MANY_FILES = 10**6


async def says_hello(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


class Transport(asyncio.Transport):
    """One client: what it was sent, and when it was closed."""

    def __init__(self, protocol: EdgeProtocol, address: str) -> None:
        super().__init__({"peername": (address, 5000), "sockname": ("127.0.0.1", 8000)})
        self.sent = b""
        self.closed_at: float | None = None
        self._protocol = protocol
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def close(self) -> None:
        if self.closed_at is None:
            self.closed_at = now()
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self.closed_at is not None

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def receives(self, data: bytes) -> None:
        """The client sends this."""
        self._protocol.data_received(data)


Connect = Callable[..., Transport]


def served(
    test: Callable[[Connect], Awaitable[None]],
    edge: EdgeSettings,
    monkeypatch: pytest.MonkeyPatch,
    files: int = MANY_FILES,
) -> None:
    """Runs a test with clients of one server."""
    everyone = Connections(edge, files)
    monkeypatch.setattr(protocol, "connections", lambda: everyone)

    async def whole() -> None:
        config = uvicorn.Config(
            says_hello, log_config=None, lifespan="off", timeout_keep_alive=60, ws_ping_interval=None
        )
        state = ServerState()

        def connect(address: str = "192.0.2.1") -> Transport:
            return Transport(EdgeProtocol(config, state, {}), address)

        await test(connect)

    run(whole)


def test_headers_that_do_not_come_end_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(connect: Connect) -> None:
        silent, half = connect(), connect()
        half.receives(HALF)
        for _ in range(20):
            await asyncio.sleep(1.0)
            if not half.is_closing():
                half.receives(b"x")
        assert (silent.closed_at, half.closed_at) == (10.0, 10.0)
        assert silent.sent == b""
        assert half.sent.startswith(b"HTTP/1.1 408 ")
        assert half.sent.endswith(b'"code":"request_timeout"}}')

    served(test, EdgeSettings(), monkeypatch)


def test_a_request_is_answered_and_its_connection_rests_until_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(connect: Connect) -> None:
        client = connect()
        for _ in range(3):
            client.receives(WHOLE)
            await asyncio.sleep(30.0)
        assert client.sent.count(b"hello") == 3
        client.receives(b"\r\n")  # no request, and no end of the wait for one
        await asyncio.sleep(11.0)
        assert client.closed_at == 100.0

    served(test, EdgeSettings(), monkeypatch)


def test_a_connection_that_rests_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(connect: Connect) -> None:
        client = connect()
        client.receives(WHOLE)
        await asyncio.sleep(100.0)
        assert client.closed_at == 60.0

    served(test, EdgeSettings(), monkeypatch)


def test_the_rest_of_an_answered_body_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(connect: Connect) -> None:
        stopped, goes_on = connect(), connect()
        stopped.receives(UPLOAD)
        goes_on.receives(UPLOAD)
        await asyncio.sleep(20.0)
        goes_on.receives(b"x" * 8)
        goes_on.receives(WHOLE)
        await asyncio.sleep(100.0)
        assert stopped.closed_at == protocol.LINGER_S
        assert (goes_on.sent.count(b"hello"), goes_on.closed_at) == (2, 80.0)

    served(test, EdgeSettings(), monkeypatch)


def test_headers_have_a_length(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(connect: Connect) -> None:
        client = connect()
        client.receives(HALF)
        for _ in range(5):
            client.receives(b"x" * 16 * 1024)
        at_once = connect()
        at_once.receives(HALF + b"\r\nx-long: " + b"x" * 80 * 1024 + b"\r\n\r\n")
        assert all(each.sent.startswith(b"HTTP/1.1 431 ") for each in (client, at_once))

    served(test, EdgeSettings(), monkeypatch)


def test_what_is_not_http_gets_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(connect: Connect) -> None:
        client = connect()
        client.receives(b"NONSENSE\r\n\r\n")
        assert client.sent.startswith(b"HTTP/1.1 400 ")
        assert b"application/json" in client.sent

    served(test, EdgeSettings(), monkeypatch)


def test_a_client_that_reads_nothing_of_its_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(connect: Connect) -> None:
        stalled, slow = connect(), connect()
        for client in (stalled, slow):
            client._protocol.timeout_keep_alive = 10**6  # which closes it otherwise
            client.receives(WHOLE)
            client._protocol.pause_writing()
        await asyncio.sleep(300.0)
        slow._protocol.resume_writing()
        await asyncio.sleep(1000.0)
        assert (stalled.closed_at, slow.closed_at) == (600.0, None)
        slow.close()
        await asyncio.sleep(1.0)

    served(test, EdgeSettings(), monkeypatch)


@pytest.mark.parametrize("files", [MANY_FILES, OTHER_FILES + 3])
def test_when_all_places_are_taken_the_longest_without_headers_goes(
    files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 3 if files == MANY_FILES else 100

    async def test(connect: Connect) -> None:
        good = connect()
        good.receives(WHOLE)
        await asyncio.sleep(0)
        first, second, newcomer = connect(), connect(), connect()
        assert first.is_closing()
        assert not any(each.is_closing() for each in (good, second, newcomer))
        second.receives(WHOLE)
        newcomer.receives(WHOLE)
        refused = connect()
        assert refused.sent.startswith(b"HTTP/1.1 503 ")
        await asyncio.sleep(0)
        good.close()
        await asyncio.sleep(0.1)
        assert not connect().is_closing()
        await asyncio.sleep(100)

    served(test, EdgeSettings(max_connections=most), monkeypatch, files)


def test_all_addresses_of_a_subscriber_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(connect: Connect) -> None:
        assert not any(connect(f"2001:db8::{number}").is_closing() for number in (1, 2))
        assert connect("2001:db8::3").is_closing()
        assert not connect("2001:db8:0:1::1").is_closing()

    served(test, EdgeSettings(max_connections_per_address=2), monkeypatch)


def test_servers_let_more_connections_wait_than_uvicorn_does(monkeypatch: pytest.MonkeyPatch) -> None:
    class OtherConfig(uvicorn.Config):
        pass

    monkeypatch.setattr("uvicorn.config.Config", OtherConfig)
    monkeypatch.setattr("uvicorn.config.HTTP_PROTOCOLS", {})
    protocol.install()
    assert OtherConfig("no:app").backlog == protocol.BACKLOG


def test_one_address_has_so_many_connections_but_this_machine_any(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(connect: Connect) -> None:
        own = [connect() for _ in range(2)]
        assert connect().sent.startswith(b"HTTP/1.1 503 ")
        assert not connect("192.0.2.2").is_closing()
        assert not any(connect(address).is_closing() for address in ["127.0.0.1", "::1"] * 5)
        own[0].close()
        await asyncio.sleep(0.1)
        assert not connect().is_closing()
        await asyncio.sleep(100)

    served(test, EdgeSettings(max_connections_per_address=2), monkeypatch)


UPGRADE = (
    b"GET / HTTP/1.1\r\nhost: m\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def upgraded(client: Transport, monkeypatch: pytest.MonkeyPatch) -> list[asyncio.BaseProtocol]:
    """Makes a WebSocket of a connection. Returns its protocols, that of the WebSocket last."""
    protocols: list[asyncio.BaseProtocol] = [client._protocol]
    monkeypatch.setattr(client, "set_protocol", protocols.append, raising=False)
    monkeypatch.setattr(client, "get_protocol", lambda: protocols[-1], raising=False)
    client.receives(UPGRADE)
    assert len(protocols) == 2
    return protocols


def test_a_websocket_on_a_connection_that_answered_a_request_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """HAProxy sends requests of many clients on one connection, and then a WebSocket."""

    async def test(connect: Connect) -> None:
        client = connect()
        client.receives(WHOLE)
        await asyncio.sleep(1.0)
        assert client.sent.endswith(b"hello")
        protocols = upgraded(client, monkeypatch)
        await asyncio.sleep(100.0)
        assert client.closed_at is None
        websocket: Any = protocols[-1]
        websocket.connection_lost(None)
        await asyncio.sleep(0)

    served(test, EdgeSettings(), monkeypatch)


def test_a_websocket_counts_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(connect: Connect) -> None:
        protocols = upgraded(connect(), monkeypatch)
        await asyncio.sleep(15.0)
        assert connect().is_closing()
        websocket: Any = protocols[-1]
        websocket.connection_lost(None)
        await asyncio.sleep(0)
        assert not connect().is_closing()
        await asyncio.sleep(100)

    served(test, EdgeSettings(max_connections_per_address=1), monkeypatch)
