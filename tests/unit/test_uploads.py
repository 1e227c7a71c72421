"""Recordings that are answered while they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message

from deployments.errors import fail
from serve_app.gateway.bodies.arrival import FormArrival
from serve_app.gateway.bodies.uploads import FormFields, UploadForm, answer_upload
from serve_app.gateway.errors import install_error_handlers
from serve_app.gateway.middleware.concurrency import ConcurrencyLimit
from serve_app.gateway.routing.open_limits import EarlyAnswers
from serve_app.gateway.streaming import event_stream, stream_of

HEADERS = [(b"content-type", b"multipart/form-data; boundary=b"), (b"transfer-encoding", b"chunked")]
FIELDS = FormFields(repeated=("stems",))
END = b"--b--\r\n"


def field(name: str, value: str = "x") -> bytes:
    return f'--b\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()


def file_begins(name: str = "file") -> bytes:
    return f'--b\r\ncontent-disposition: form-data; name="{name}"; filename="f"\r\n\r\n'.encode()


def sound(number: int) -> bytes:
    return bytes([65 + number]) * 100


async def as_events(form: UploadForm) -> Response:
    """An event for each block of the recording, after one with the fields."""

    async def events() -> AsyncGenerator[bytes]:
        yield f"{sorted(form.fields)} ".encode()
        async for block in form.file.blocks(100):
            yield block[:1]
        yield b"."

    return await event_stream(events())


async def as_json(form: UploadForm) -> Response:
    """The fields, and the first byte of each block of the recording."""
    blocks = [block[:1].decode() async for block in form.file.blocks(100)]
    return JSONResponse({"fields": sorted(form.fields), "blocks": "".join(blocks)})


class Exchange:
    """A request whose client sends what a test says, when it says so."""

    def __init__(self, answer: Any, early: EarlyAnswers | None = None, limit: int = 9) -> None:
        self.answers = 0
        self.form: UploadForm | None = None
        api = FastAPI()
        install_error_handlers(api)

        async def counted(form: UploadForm) -> Response:
            self.answers += 1
            self.form = form
            return await answer(form)  # type: ignore[no-any-return]

        async def route(request: Request) -> Response:
            return await answer_upload(request, FIELDS, counted, early or EarlyAnswers(9))

        api.add_api_route("/v1/x", route, methods=["POST"])
        self.app = ConcurrencyLimit(api, limit)
        self.status = 0
        self.body = b""
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._arrived = asyncio.Event()
        scope: dict[str, Any] = {"type": "http", "path": "/v1/x", "raw_path": b"/v1/x", "method": "POST"}
        scope |= {"headers": HEADERS, "query_string": b"", "root_path": "", "asgi": {"spec_version": "2.3"}}
        self.task = asyncio.create_task(self.app(scope, self._messages.get, self._take))

    def send(self, *data: bytes) -> None:
        self._messages.put_nowait({"type": "http.request", "body": b"".join(data), "more_body": True})

    def end(self, *data: bytes) -> None:
        self._messages.put_nowait({"type": "http.request", "body": b"".join(data), "more_body": False})

    def leave(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def _take(self, message: Message) -> None:
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")
        self._arrived.set()

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(10):
            while text not in self.body:
                self._arrived.clear()
                await self._arrived.wait()

    async def answered(self) -> bytes:
        await asyncio.wait_for(self.task, 10)
        return self.body


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_events_are_sent_while_the_recording_arrives() -> None:
    exchange = Exchange(as_events)
    exchange.send(field("model"), file_begins(), sound(0))
    await exchange.until(b"['model'] A")
    exchange.send(sound(1))
    await exchange.until(b"B")
    assert exchange.status == 200 and b"." not in exchange.body
    exchange.end(b"\r\n", END)
    assert await exchange.answered() == b"['model'] AB."
    assert exchange.answers == 1


async def test_another_answer_is_made_while_the_recording_arrives_and_sent_after_it() -> None:
    exchange = Exchange(as_json)
    exchange.send(field("model"), file_begins(), sound(0))
    await settle()
    assert (exchange.answers, exchange.status) == (1, 0)
    exchange.end(b"\r\n", END)
    assert await exchange.answered() == b'{"fields":["model"],"blocks":"A"}'
    assert exchange.answers == 1


@pytest.mark.parametrize("before", [field("language"), b""])
async def test_without_the_model_before_it_a_recording_is_answered_at_its_end(before: bytes) -> None:
    exchange = Exchange(as_json)
    exchange.send(before, file_begins(), sound(0), sound(1))
    await settle()
    assert exchange.answers == 0
    exchange.end(b"\r\n", field("model"), END)
    expected = sorted(["language", "model"]) if before else ["model"]
    assert (await exchange.answered()).startswith(
        f'{{"fields":{expected!s}'.replace("'", '"').replace(", ", ",").encode()
    )
    assert exchange.answers == 1


async def test_fields_after_the_recording_are_used_if_nothing_was_sent_yet() -> None:
    exchange = Exchange(as_json)
    exchange.send(field("model"), file_begins(), sound(0), sound(1))
    await settle()
    exchange.end(b"\r\n", field("language"), END)
    assert await exchange.answered() == b'{"fields":["language","model"],"blocks":"AB"}'
    assert exchange.answers == 2


async def test_fields_after_the_recording_are_an_error_event_once_events_were_sent() -> None:
    exchange = Exchange(as_events)
    exchange.send(field("model"), file_begins(), sound(0))
    await exchange.until(b"A")
    exchange.end(b"\r\n", field("language"), END)
    body = await exchange.answered()
    assert b"'language' came after the recording" in body and b'"code":"late_field"' in body.replace(b": ", b":")


async def test_a_refusal_is_sent_after_the_end_and_not_with_fields_that_came_after_it() -> None:
    async def needs_language(form: UploadForm) -> Response:
        if "language" not in form.fields:
            raise fail("invalid", "no language")
        return await as_json(form)

    for late, status in ((b"", 400), (field("language"), 200)):
        exchange = Exchange(needs_language)
        exchange.send(field("model"), file_begins(), sound(0))
        await settle()
        assert (exchange.answers, exchange.status) == (1, 0)
        exchange.end(b"\r\n", late, END)
        await exchange.answered()
        assert exchange.status == status


async def test_a_client_that_leaves_ends_the_answer_and_no_file_stays() -> None:
    exchange = Exchange(as_events)
    exchange.send(field("model"), file_begins(), sound(0))
    await exchange.until(b"A")
    exchange.leave()
    await exchange.answered()
    assert b"." not in exchange.body
    assert exchange.form is not None and exchange.form.file._spool.closed


async def test_an_answer_that_waits_for_the_end_is_closed_when_the_client_leaves() -> None:
    sources: list[AsyncGenerator[bytes]] = []  # kept, so that garbage collection closes none
    closed = asyncio.Event()

    async def sound_of_stem() -> AsyncGenerator[bytes]:
        try:
            yield b"RIFF"
        finally:
            closed.set()

    async def as_sound(form: UploadForm) -> Response:
        sources.append(sound_of_stem())
        return await stream_of(sources[-1], "audio/wav")

    exchange = Exchange(as_sound)
    exchange.send(field("model"), file_begins(), sound(0))
    await settle()
    assert exchange.answers == 1 and not closed.is_set()
    exchange.leave()
    await exchange.answered()
    assert closed.is_set() and exchange.body == b""


async def test_a_form_that_ends_within_its_recording_is_refused() -> None:
    exchange = Exchange(as_json)
    exchange.send(field("model"), file_begins(), sound(0))
    exchange.end()
    await exchange.answered()
    assert exchange.status == 400


@pytest.mark.parametrize("early", [True, False])
async def test_two_recordings_are_refused(early: bool) -> None:
    exchange = Exchange(as_json)
    model, second = field("model"), [file_begins(), sound(1), b"\r\n"]
    exchange.send(*([model] if early else []), file_begins(), sound(0), b"\r\n", *second)
    await settle()
    exchange.end(*([] if early else [model]), END)
    body = await exchange.answered()
    assert exchange.status == 400 and b"repeated_file" in body


async def test_slow_uploads_do_not_take_all_early_answers() -> None:
    early = EarlyAnswers(1)
    first, second = Exchange(as_events, early), Exchange(as_json, early)
    for exchange in (first, second):
        exchange.send(field("model"), file_begins(), sound(0))
        await settle()
    assert (first.answers, second.answers) == (1, 0)
    second.end(b"\r\n", END)
    assert b'"blocks":"A"' in await second.answered()
    first.end(b"\r\n", END)
    await first.answered()
    third = Exchange(as_events, early)
    third.send(field("model"), file_begins(), sound(0))
    await third.until(b"A")
    third.leave()
    await third.answered()


async def test_an_early_answer_is_counted_among_those_that_are_served() -> None:
    exchange = Exchange(as_events, limit=1)
    limit = exchange.app
    exchange.send(field("model"), file_begins(), sound(0))
    await exchange.until(b"A")
    assert limit._served == 1
    exchange.end(b"\r\n", END)
    await exchange.answered()
    assert exchange.status == 200 and limit._served == 0


async def test_a_recording_is_read_again_from_its_start() -> None:
    read: list[bytes] = []

    async def twice(form: UploadForm) -> Response:
        read.extend([await form.file.read(), await form.file.read()])
        return Response()

    exchange = Exchange(twice)
    exchange.end(field("model"), file_begins(), sound(0), sound(1), b"\r\n", END)
    await exchange.answered()
    assert read == [sound(0) + sound(1)] * 2


async def test_a_reader_that_is_cancelled_leaves_no_task_that_waits() -> None:
    request = Request({"type": "http", "headers": HEADERS}, asyncio.Queue[Message]().get)
    arrival = FormArrival(request, "multipart/form-data; boundary=b")
    reading = asyncio.create_task(arrival.until(lambda: False))
    await settle()
    reading.cancel()
    await asyncio.wait({reading})
    await arrival.close()
    await settle()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_list_is_in_the_order_of_its_numbers() -> None:
    async def words(form: UploadForm) -> Response:
        return JSONResponse(form.fields["keywords"])

    exchange = Exchange(words)
    numbered = [field(f"keywords[{number}]", f"w{number}") for number in (10, 1, 0, 9)]
    exchange.end(field("model"), *numbered, file_begins(), sound(0), b"\r\n", END)
    assert await exchange.answered() == b'["w0","w1","w9","w10"]'
