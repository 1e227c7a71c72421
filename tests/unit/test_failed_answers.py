"""A request that fails: the gateway logs one line with the cause, and the client sees no text of the exception."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message

from deployments.engines.protocols import SpeechRequest
from deployments.errors import as_failure, fail
from deployments.replica.wire import PackedChunk
from serve_app.gateway.errors import install_error_handlers
from serve_app.gateway.middleware.request_log import RequestLog
from serve_app.gateway.request_context import RequestRecord
from tests.unit.fakes import ToneSynthesizer
from tests.unit.test_api import Bench, events_of

TEXT = "The first one is fine. The second one is not."
SECRET = "the secret layer 7"
ID = {"x-request-id": "my-id-7"}


class Broken(ToneSynthesizer):
    """Its engine fails at the second piece of a text, or at the first."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at

    async def speak(self, request: SpeechRequest) -> AsyncIterator[PackedChunk]:
        async for chunk in super().speak(request):
            if chunk.index >= self._at:
                yield as_failure(ValueError(SECRET))  # type: ignore[misc]
                return
            yield chunk


def only_error(logged: pytest.LogCaptureFixture) -> str:
    """The one line that was logged as an error."""
    (record,) = [record for record in logged.records if record.levelno >= logging.WARNING]
    assert record.levelname == "ERROR"
    return record.getMessage()


async def spoken_by(synthesizer: ToneSynthesizer, **fields: Any) -> httpx.Response:
    body = {"model": "tone", "input": TEXT, "response_format": "pcm", **fields}
    return await Bench(synthesizer).client.post("/v1/audio/speech", json=body, headers=ID)


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
async def test_an_engine_error_is_one_line_and_a_message_with_the_request_id(
    stream_format: str, logged: pytest.LogCaptureFixture
) -> None:
    answer = await spoken_by(Broken(0), stream_format=stream_format)
    message = answer.json()["error"]["message"]
    assert answer.status_code == 500
    assert message.endswith("Request id: my-id-7.") and SECRET not in answer.text
    line = only_error(logged)
    assert "POST /v1/audio/speech" in line and SECRET in line and "\n" not in line


async def test_an_error_in_the_middle_of_events_is_logged_and_told(logged: pytest.LogCaptureFixture) -> None:
    answer = await spoken_by(Broken(1), stream_format="sse")
    error = events_of(answer.text)[-1]
    assert error["type"] == "error" and "Request id: my-id-7." in error["error"]["message"]
    assert SECRET not in answer.text and SECRET in only_error(logged)


async def test_a_sound_that_breaks_off_is_logged_once_and_has_no_end(logged: pytest.LogCaptureFixture) -> None:
    sent = await messages_of(Bench(Broken(1)).api, model="tone", input=TEXT, response_format="pcm")
    assert sent[0]["status"] == 200
    assert all(message.get("more_body", True) for message in sent), "the client would take it for whole"
    assert SECRET in only_error(logged)


async def messages_of(api: Any, method: str = "POST", path: str = "/v1/audio/speech", **fields: Any) -> list[Message]:
    """What a server is given to send."""
    body = json.dumps(fields).encode()
    headers = [(b"content-type", b"application/json"), (b"host", b"motet"), (b"x-request-id", b"my-id-7")]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("motet", 80),
        "scheme": "http",
    }
    sent: list[Message] = []
    incoming = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        if message := next(incoming, None):
            return message
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    await api(scope, receive, send)
    return sent


COUNTED: list[tuple[str, int, str | None]] = []


def count(record: RequestRecord, route: str, status: int) -> None:
    """Stands for the metrics."""
    COUNTED.append((route, status, record.failure))


def small_api() -> FastAPI:
    """An application whose routes fail in every way."""
    api = FastAPI()
    install_error_handlers(api)

    @api.get("/unexpected")
    async def _unexpected() -> None:
        raise KeyError(SECRET)

    @api.get("/gone")
    async def _gone() -> None:
        raise fail("unavailable", "The model has no replica.", "Try again.", detail=SECRET)

    @api.get("/wrong")
    async def _wrong() -> None:
        raise fail("invalid", "That is wrong.", "Mend it.")

    @api.get("/left")
    async def _left(request: Request) -> Response:
        raise ClientDisconnect

    @api.get("/left-later")
    async def _left_later() -> Response:
        async def body() -> AsyncIterator[bytes]:
            yield b"begun"
            raise ClientDisconnect

        return StreamingResponse(body())

    return api


async def asked(path: str) -> httpx.Response:
    transport = httpx.ASGITransport(RequestLog(small_api(), count))  # raises what the application raises
    async with httpx.AsyncClient(transport=transport, base_url="http://motet") as client:
        return await client.get(path, headers=ID)


async def test_what_nobody_expected_is_logged_once_with_its_traceback(logged: pytest.LogCaptureFixture) -> None:
    answer = await asked("/unexpected")
    assert answer.status_code == 500 and SECRET not in answer.text and "my-id-7" in answer.text
    line = only_error(logged)
    assert line.startswith(f"GET /unexpected failed: KeyError: '{SECRET}'\nTraceback (most recent call last):")


async def test_a_model_that_is_gone_is_one_warning_with_the_cause(logged: pytest.LogCaptureFixture) -> None:
    answer = await asked("/gone")
    assert answer.status_code == 503 and SECRET not in answer.text
    (record,) = [record for record in logged.records if record.levelno > logging.INFO]
    assert record.levelname == "WARNING" and SECRET in record.getMessage()


@pytest.mark.parametrize("path", ["/wrong", "/left", "/left-later"])
async def test_what_is_the_clients_doing_is_no_error(path: str, logged: pytest.LogCaptureFixture) -> None:
    await messages_of(RequestLog(small_api(), count), "GET", path)
    assert not [record for record in logged.records if record.levelno >= logging.WARNING]


async def test_a_client_that_leaves_is_one_line(logged: pytest.LogCaptureFixture) -> None:
    async def slow(*_: Any) -> None:
        await asyncio.Event().wait()

    scope = {"type": "http", "method": "POST", "path": "/v1", "headers": []}
    log: Any = RequestLog(slow, count, clock=lambda: 1.0)
    request = asyncio.create_task(log(scope, None, None))
    await asyncio.sleep(0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    (line,) = request_lines(logged)
    assert line == {"id": "", "route": "POST /v1", "status": 499, "total_ms": 0.0}


def request_lines(logged: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The lines of JSON, one for each request."""
    messages = [record.getMessage() for record in logged.records if record.levelno == logging.INFO]
    return [json.loads(message) for message in messages if message.startswith("{")]


async def test_a_request_is_one_line_with_what_became_of_it(logged: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    await bench.client.post(
        "/v1/audio/speech", json={"model": "tone", "input": TEXT, "response_format": "pcm"}, headers=ID
    )
    (line,) = request_lines(logged)
    times = {name: line.pop(name) for name in ("total_ms", "first_sound_ms")}
    assert 0 <= times["first_sound_ms"] <= times["total_ms"]
    assert line == {
        "id": "my-id-7",
        "route": "POST /v1/audio/speech",
        "model": "tone",
        "placement": "tone@cpu",
        "status": 200,
        "seconds_of_audio": line["seconds_of_audio"],
        "finish_reason": "stop",
    }
    assert line["seconds_of_audio"] > 0
    assert bench.recorder.requests == [("/v1/audio/speech", "tone", 200)]


async def test_the_line_of_a_transcription_has_placement_and_length(logged: pytest.LogCaptureFixture) -> None:
    form = {"data": {"model": "ear"}, "files": {"file": bytes(100)}}
    answer = await Bench().client.post("/v1/audio/transcriptions", headers=ID, **form)  # type: ignore[arg-type]
    assert answer.status_code == 200
    (line,) = request_lines(logged)
    assert (line["id"], line["model"], line["placement"], line["status"]) == ("my-id-7", "ear", "ear@cpu", 200)
    assert line["seconds_of_audio"] > 0


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
async def test_a_failed_request_has_its_failure_in_its_line(
    stream_format: str, logged: pytest.LogCaptureFixture
) -> None:
    answer = (
        await spoken_by(Broken(1), stream_format=stream_format)
        if stream_format == "sse"
        else await spoken_by(Broken(0))
    )
    (line,) = request_lines(logged)
    assert (line["id"], line["status"], line["failure"]) == ("my-id-7", answer.status_code, "engine")


async def test_a_path_with_line_breaks_stays_on_one_line_and_is_no_label(logged: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    await messages_of(bench.api, "GET", "/v1/a\nERROR forged")
    await messages_of(RequestLog(small_api(), count), "GET", "/gone")
    assert all("\n" not in record.getMessage() for record in logged.records)
    assert bench.recorder.requests == [("other", None, 404)]
    assert COUNTED[-1] == ("/gone", 503, "unavailable")


async def test_health_checks_are_not_logged(logged: pytest.LogCaptureFixture) -> None:
    assert (await Bench().client.get("/livez")).status_code == 200
    assert request_lines(logged) == []
