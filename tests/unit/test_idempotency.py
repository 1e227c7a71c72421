"""A request with an `Idempotency-Key` is answered once. No Ray, no network."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from deployments.errors import fail
from serve_app.gateway.idempotency.fingerprint import RequestFingerprint
from serve_app.gateway.idempotency.kept_answers import KeptAnswers
from serve_app.gateway.idempotency.shared_answer import LOOK_AHEAD_BYTES
from serve_app.gateway.middleware.idempotency import Idempotency
from serve_app.gateway.request_context import REQUEST, RequestRecord
from serve_app.gateway.settings import IdempotencySettings
from tests.unit.test_api import Bench, Ear

SPEECH = "/v1/audio/speech"


class App:
    """Counts its requests. It answers with what the test lets out."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.bodies: list[bytes] = []
        self.parts = asyncio.Queue[bytes | Exception]()
        self.made = self.cancelled = 0
        self.ended = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        self.bodies.append(body)
        try:
            await send({"type": "http.response.start", "status": self.status, "headers": [(b"x-made", b"1")]})
            while part := await self.parts.get():
                if isinstance(part, Exception):
                    raise part
                await send({"type": "http.response.body", "body": part, "more_body": True})
                self.made += len(part)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.ended.set()

    def finish(self, *parts: bytes) -> None:
        for part in (*parts, b""):
            self.parts.put_nowait(part)


class Client:
    """One request. It reads no more than it is allowed to."""

    def __init__(self, body: bytes = b"{}", key: str = "one", **headers: str) -> None:
        self.headers = {"idempotency-key": key, "content-type": "application/json", **headers}
        self.messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        self.left = asyncio.Event()
        self.reads = asyncio.Event()
        self.reads.set()
        self.status = 0
        self.answer_headers: dict[str, str] = {}
        self.data = b""
        self.over = False
        self.task: asyncio.Task[None] | None = None

    @property
    def scope(self) -> Scope:
        headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in self.headers.items()]
        return {"type": "http", "method": "POST", "path": SPEECH, "query_string": b"", "headers": headers}

    async def receive(self) -> Message:
        if self.messages:
            return self.messages.pop(0)
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.answer_headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.data += message.get("body", b"")
            self.over = not message.get("more_body", False)


class House:
    """The middleware over an application, with a clock that is moved by hand."""

    def __init__(self, app: App, client: str = "someone", **settings: Any) -> None:
        self.now_s = 0.0
        self.app = app
        self.record = RequestRecord()
        self.answers = KeptAnswers(IdempotencySettings(**settings), lambda: self.now_s)
        self.middleware = Idempotency(app, self.answers, lambda connection: client)

    async def begin(self, client: Client) -> Client:
        """Sends a request, and lets everything happen that can."""
        REQUEST.set(self.record)
        client.task = asyncio.create_task(self.middleware(client.scope, client.receive, client.send))
        await settle()
        return client


async def settle() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


async def test_a_repeated_request_gets_the_stored_answer() -> None:
    house = House(App())
    house.app.finish(b"ab", b"cd")
    first = await house.begin(Client())
    again = await house.begin(Client())
    assert (first.status, first.data, first.over) == (again.status, again.data, again.over) == (200, b"abcd", True)
    assert len(house.app.bodies) == 1
    assert again.answer_headers == {"x-made": "1", "idempotent-replayed": "true"}
    assert "idempotent-replayed" not in first.answer_headers


async def test_a_repeated_request_joins_the_first_while_it_runs() -> None:
    house = House(App())
    first = await house.begin(Client())
    house.app.parts.put_nowait(b"ab")
    second = await house.begin(Client())
    assert (first.data, second.data, first.over, second.over) == (b"ab", b"ab", False, False)
    house.app.finish(b"cd")
    await settle()
    assert (first.data, second.data, first.over, second.over) == (b"abcd", b"abcd", True, True)
    assert len(house.app.bodies) == 1


async def test_an_answer_goes_on_when_its_client_is_lost_and_the_client_comes_back() -> None:
    house = House(App())
    first = await house.begin(Client())
    house.app.parts.put_nowait(b"ab")
    await settle()
    first.left.set()
    await settle()
    assert first.task is not None and first.task.done() and house.app.cancelled == 0
    house.app.finish(b"cd")
    await settle()
    again = await house.begin(Client())
    assert again.data == b"abcd" and again.over and len(house.app.bodies) == 1


async def test_a_call_that_the_server_cancels_leaves_the_answer_running() -> None:
    """Ray Serve cancels the task of a client that left."""
    house = House(App())
    first = await house.begin(Client())
    assert first.task is not None
    first.task.cancel()
    await settle()
    house.app.finish(b"ab")
    assert (await house.begin(Client())).data == b"ab" and house.app.cancelled == 0


async def test_an_answer_that_nobody_comes_back_for_is_ended() -> None:
    house = House(App(), rejoin_s=0.001)
    first = await house.begin(Client())
    first.left.set()
    await house.app.ended.wait()
    await settle()
    assert house.app.cancelled == 1 and house.answers.find(("someone", "one")) is None


async def test_another_body_is_a_conflict() -> None:
    house = House(App())
    house.app.finish(b"ab")
    await house.begin(Client(b'{"input": "a"}'))
    other = await house.begin(Client(b'{"input": "b"}'))
    assert other.status == 409 and b"idempotency_key_reused" in other.data
    assert len(house.app.bodies) == 1


async def test_clients_do_not_see_each_others_answers() -> None:
    house, other = House(App()), House(App(), client="another")
    other.middleware = Idempotency(other.app, house.answers, lambda connection: "another")
    house.app.finish(b"ab")
    other.app.finish(b"cd")
    assert (await house.begin(Client())).data == b"ab"
    assert (await other.begin(Client())).data == b"cd"


@pytest.mark.parametrize("status", [400, 429, 500, 503])
async def test_a_failure_is_told_to_all_that_joined_and_then_forgotten(status: int) -> None:
    house = House(App(status))
    first, second = await house.begin(Client()), await house.begin(Client())
    house.app.finish(b"no")
    await settle()
    assert (first.status, second.status, first.data, second.data) == (status, status, b"no", b"no")
    house.app.status = 200
    house.app.finish(b"yes")
    assert (await house.begin(Client())).data == b"yes" and len(house.app.bodies) == 2


async def test_a_stream_that_breaks_off_is_broken_for_all_and_then_made_again() -> None:
    house = House(App())
    first, second = await house.begin(Client()), await house.begin(Client())
    house.app.parts.put_nowait(b"ab")
    house.app.parts.put_nowait(OSError("lost"))
    await settle()
    for client in (first, second):
        assert client.task is not None and isinstance(client.task.exception(), OSError) and not client.over
    house.app.finish(b"abcd")
    assert (await house.begin(Client())).data == b"abcd"


async def test_a_stream_that_reports_its_failure_is_not_kept() -> None:
    house = House(App())
    house.record.failure = "timeout"
    house.app.finish(b"data: error\n\n")
    await house.begin(Client())
    house.record = RequestRecord()
    house.app.finish(b"data: good\n\n")
    assert (await house.begin(Client())).data == b"data: good\n\n"


async def test_an_answer_is_forgotten_after_its_time() -> None:
    house = House(App(), keep_s=60.0)
    house.app.finish(b"ab")
    await house.begin(Client())
    house.now_s = 61.0
    house.app.finish(b"cd")
    assert (await house.begin(Client())).data == b"cd"


async def test_the_oldest_answers_leave_when_memory_is_short() -> None:
    house = House(App(), max_bytes=10, max_answer_bytes=8)
    for key in ("one", "two"):
        house.app.finish(b"123456")
        await house.begin(Client(key=key))
    house.app.finish(b"new")
    assert (await house.begin(Client(key="one"))).data == b"new"
    assert (await house.begin(Client(key="two"))).data == b"123456"


async def test_an_answer_that_is_too_long_is_sent_and_not_kept() -> None:
    house = House(App(), max_answer_bytes=3)
    house.app.finish(b"ab", b"cd", b"ef")
    first = await house.begin(Client())
    assert first.data == b"abcdef" and first.over
    again = await house.begin(Client())
    assert again.status == 409 and b"idempotency_answer_not_kept" in again.data
    assert len(house.app.bodies) == 1


async def test_an_answer_is_made_no_faster_than_its_fastest_client_reads() -> None:
    house = House(App())
    slow = Client()
    slow.reads.clear()
    await house.begin(slow)
    house.app.finish(*([b"x" * 65_536] * 40))
    await settle()
    assert house.app.made <= LOOK_AHEAD_BYTES
    fast = await house.begin(Client())
    assert fast.over and len(fast.data) == 40 * 65_536
    slow.reads.set()
    await settle()
    assert slow.data == fast.data


async def test_a_long_answer_waits_for_the_slowest_of_its_clients() -> None:
    house = House(App(), max_answer_bytes=65_536)
    fast, slow = Client(), Client()
    slow.reads.clear()
    await house.begin(fast)
    await house.begin(slow)
    house.app.finish(*([b"x" * 65_536] * 40))
    await settle()
    assert house.app.made <= LOOK_AHEAD_BYTES + 65_536
    slow.reads.set()
    for _ in range(20):
        await settle()
    assert fast.over and slow.over and slow.data == fast.data and len(fast.data) == 40 * 65_536


async def test_events_go_on_after_the_last_one_that_the_client_has() -> None:
    house = House(App())
    house.app.finish(*(f"data: {n}\nid: k-{n}\n\n".encode() for n in range(3)))
    await house.begin(Client())
    rest = await house.begin(Client(last_event_id="k-0"))
    assert rest.data == b"data: 1\nid: k-1\n\ndata: 2\nid: k-2\n\n" and rest.status == 200 and rest.over
    end = await house.begin(Client(last_event_id="k-2"))
    assert end.data == b"" and end.status == 200 and end.over
    wrong = await house.begin(Client(last_event_id="k-7"))
    assert wrong.status == 400 and b"event_id_mismatch" in wrong.data


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_has_1_to_255_characters(key: str) -> None:
    client = await House(App()).begin(Client(key=key))
    assert client.status == 400


async def test_too_many_requests_at_once_are_refused() -> None:
    house = House(App(), max_answers=1)
    await house.begin(Client())
    assert (await house.begin(Client(key="two"))).status == 429


def fed(scope: Scope, parts: Iterable[bytes]) -> str:
    found = RequestFingerprint(scope)
    for part in parts:
        found.feed(part)
    return found.digest()


def form(boundary: str, content: str = "hello") -> tuple[Scope, bytes]:
    headers = [(b"content-type", f"multipart/form-data; boundary={boundary}".encode())]
    body = f'--{boundary}\r\ncontent-disposition: form-data; name="a"\r\n\r\n{content}\r\n--{boundary}--\r\n'
    return {"path": "/v1/audio/transcriptions", "query_string": b"", "headers": headers}, body.encode()


def test_a_form_with_another_boundary_is_the_same_request_however_it_arrives() -> None:
    scope, body = form("abcdefgh")
    expected = fed(scope, [body])
    assert fed(*(lambda found: (found[0], [found[1]]))(form("x"))) == expected
    for size in range(1, 12):
        assert fed(scope, [body[at : at + size] for at in range(0, len(body), size)]) == expected
    other_scope, other = form("abcdefgh", "hallo")
    assert fed(other_scope, [other]) != expected


def test_path_and_query_belong_to_the_request() -> None:
    scope: Scope = {"path": "/a", "query_string": b"", "headers": []}
    found = {fed(scope, [b"x"]), fed({**scope, "path": "/b"}, [b"x"]), fed({**scope, "query_string": b"q"}, [b"x"])}
    assert len(found) == 3


async def test_speech_is_made_once() -> None:
    bench = Bench()
    key = {"idempotency-key": "line-1"}
    body = {"model": "tone", "input": "Hello there.", "response_format": "wav"}
    first = await bench.client.post(SPEECH, json=body, headers=key)
    calls = len(bench.handle.calls)
    again = await bench.client.post(SPEECH, json=body, headers=key)
    assert first.status_code == again.status_code == 200 and first.content == again.content
    assert len(bench.handle.calls) == calls and again.headers["idempotent-replayed"] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]
    other = await bench.client.post(SPEECH, json={**body, "input": "Good bye."}, headers=key)
    assert other.status_code == 409 and other.json()["error"]["code"] == "idempotency_key_reused"


async def test_a_recording_is_transcribed_once() -> None:
    ear = Ear()
    bench = Bench(ear=ear)

    async def post() -> httpx.Response:
        files = {"file": ("a.wav", b"RIFF....WAVE", "audio/wav")}
        return await bench.client.post(
            "/v1/audio/transcriptions", data={"model": "ear"}, files=files, headers={"idempotency-key": "talk"}
        )

    answers = await asyncio.gather(post(), post())
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    assert len(ear.tasks) == 1


async def test_a_request_that_is_wrong_is_not_kept() -> None:
    bench = Bench()
    key = {"idempotency-key": "line-1"}
    wrong = await bench.client.post(SPEECH, json={"model": "nobody", "input": "a"}, headers=key)
    right = await bench.client.post(SPEECH, json={"model": "tone", "input": "a"}, headers=key)
    assert (wrong.status_code, right.status_code) == (404, 200)


async def test_a_body_that_is_too_long_is_refused_also_the_second_time() -> None:
    house = House(App())
    house.app.finish(b"ab")
    await house.begin(Client())
    client = Client()

    async def receive() -> Message:
        raise fail("too_large", "It is too long.", "Send less.")

    await house.middleware(client.scope, receive, client.send)
    assert client.status == 413
