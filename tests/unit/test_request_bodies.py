"""The deadlines of request bodies, and the number of simultaneous requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from deployments.errors import MotetError
from serve_app.gateway.errors import error_response
from serve_app.gateway.middleware.concurrency import ConcurrencyLimit
from serve_app.gateway.middleware.request_bodies import BodyDeadline, BodyPace
from tests.unit.jumping_clock import now, run

PACE = BodyPace(grace_s=10.0, min_bytes_per_s=1000.0, max_unfinished=2, max_unfinished_bytes=10**6)


async def reads_all(scope: Scope, receive: Receive, send: Send) -> None:
    """A route that needs its whole body, and holds its place for `scope["works_s"]` then."""
    try:
        while (await receive()).get("more_body", False):
            pass
        await asyncio.sleep(scope.get("works_s", 0))
        status = 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body"})
    except MotetError as error:
        await error_response(error.failure)(scope, receive, send)


class Client:
    """One request; tells when it was answered, and how."""

    def __init__(self, app: Any, *parts: tuple[float, bytes], ends: bool = True, **scope: Any) -> None:
        self._app, self._parts, self._ends = app, parts, ends
        headers = [(b"content-length", b"9")] if parts or not ends else []
        self._scope = {"type": "http", "path": "/v1/audio/speech", "method": "POST", "headers": headers, **scope}
        self.status = 0
        self.headers: dict[bytes, bytes] = {}

    async def ask(self) -> float:
        """The status is there afterwards. Returns when that was."""
        parts = self._arrives()
        await self._app(self._scope, parts.__anext__, self._send)
        await parts.aclose()
        return now()

    async def _arrives(self) -> AsyncGenerator[Message, None]:
        for number, (seconds, data) in enumerate(self._parts, 1):
            await asyncio.sleep(seconds)
            more = not self._ends or number < len(self._parts)
            yield {"type": "http.request", "body": data, "more_body": more}
        if not self._parts and self._ends:
            yield {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.sleep(1e6)
        yield {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])


def test_a_body_that_stops_is_given_up() -> None:
    async def test() -> None:
        client = Client(BodyDeadline(reads_all, PACE), (1.0, b"x" * 2000), ends=False)
        assert await client.ask() == pytest.approx(12.0)  # 10 s, and 2 s for what came
        assert client.status == 408
        assert client.headers[b"connection"] == b"close"

    run(test)


def test_a_byte_now_and_then_is_not_enough() -> None:
    async def test() -> None:
        client = Client(BodyDeadline(reads_all, PACE), *[(1.0, b"x")] * 100)
        assert await client.ask() == pytest.approx(10.0, abs=1.1)
        assert client.status == 408

    run(test)


def test_a_slow_upload_that_keeps_the_pace_may_take_long() -> None:
    async def test() -> None:
        client = Client(BodyDeadline(reads_all, PACE), *[(2.0, b"x" * 2000)] * 500)
        assert await client.ask() == pytest.approx(1000.0)
        assert client.status == 200

    run(test)


def test_the_time_of_the_application_is_not_the_clients() -> None:
    async def thinks(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await asyncio.sleep(3600)
        await reads_all(scope, receive, send)

    async def test() -> None:
        client = Client(BodyDeadline(thinks, PACE), (0.0, b"x"), (1.0, b"x"))
        await client.ask()
        assert client.status == 200

    run(test)


def test_of_too_many_unfinished_bodies_the_one_furthest_behind_goes() -> None:
    async def test() -> None:
        app = BodyDeadline(reads_all, PACE)
        clients = [Client(app, ends=False) for _ in range(3)]
        tasks = []
        for client in clients:
            tasks.append(asyncio.create_task(client.ask()))
            await asyncio.sleep(1.0)
        assert [client.status for client in clients] == [408, 0, 0]
        await asyncio.gather(*tasks)

    run(test)


def test_of_unfinished_bodies_that_hold_too_much_the_largest_goes() -> None:
    async def test() -> None:
        pace = BodyPace(grace_s=10.0, min_bytes_per_s=1000.0, max_unfinished=9, max_unfinished_bytes=1000)
        app = BodyDeadline(reads_all, pace)
        large = Client(app, (0.0, b"x" * 600), ends=False)
        middle = Client(app, (1.0, b"x" * 300), ends=False)
        form = Client(
            app, (1.0, b"x" * 9000), ends=False, headers=[(b"content-type", b"multipart/form-data; boundary=x")]
        )
        small = Client(app, (2.0, b"x" * 200), (1.0, b"x"))
        tasks = [asyncio.create_task(client.ask()) for client in (large, middle, form, small)]
        await asyncio.sleep(3.5)
        assert (large.status, middle.status, form.status, small.status) == (429, 0, 0, 200)
        assert large.headers[b"retry-after"]
        last = Client(app, (0.0, b"x" * 701), ends=False)  # would be the largest itself, and 300 are held
        await last.ask()
        assert last.status == 429
        await asyncio.gather(*tasks)
        assert app._held_bytes == 0

    run(test)


def test_unfinished_bodies_take_no_places() -> None:
    async def test() -> None:
        app = ConcurrencyLimit(reads_all, limit=1)
        tasks = [asyncio.create_task(Client(app, ends=False).ask()) for _ in range(50)]
        await asyncio.sleep(1.0)
        client = Client(app, (0.0, b"x"))
        await client.ask()
        assert client.status == 200
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(test)


@pytest.mark.parametrize("parts", [(), ((0.0, b"x"),)], ids=["without a body", "with a body"])
def test_over_the_places_the_api_refuses_and_health_answers(parts: tuple[tuple[float, bytes], ...]) -> None:
    async def test() -> None:
        app = ConcurrencyLimit(reads_all, limit=1)
        working = asyncio.create_task(Client(app, (0.0, b"x"), works_s=5.0).ask())
        await asyncio.sleep(1.0)
        other, health = Client(app, *parts), Client(app, path="/livez", method="GET")
        await other.ask()
        await health.ask()
        assert (other.status, health.status) == (429, 200)
        assert other.headers[b"retry-after"]
        await working
        await other.ask()
        assert other.status == 200

    run(test)
