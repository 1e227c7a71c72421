"""Sends a job's request to the service's own application, in this process: the route, its checks and its errors are those of
any other request."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message

from serve_app.gateway.api_keys import SIGNER_HEADER
from serve_app.gateway.jobs.blobs import Blobs, BlobSink
from serve_app.gateway.jobs.records import JobAnswer, JobRequest

KEPT_HEADERS = ("content-type", "content-disposition", "x-sample-rate")
"""Headers of an answer that its job keeps, beside Motet's own."""
MOST_ERROR_BYTES = 64 * 1024


class IncompleteAnswerError(Exception):
    """The answer of the application ended before its end: something failed while it was made."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The request cannot be answered now. It may come back after `seconds`."""

    seconds: float
    answer: JobAnswer


async def answer_of(
    app: ASGIApp, request: JobRequest, job_id: str, signer: str | None, blobs: Blobs
) -> JobAnswer | Refusal:
    """What the application answers; a body is in the store then, and nobody holds it yet. `signer` is the digest of the API
    key that made the job. Raises `IncompleteAnswerError`, and `MotetError` (storage_full, not_found)."""
    content_type, length, body = await _body(request, blobs)
    headers = [("content-type", content_type), ("content-length", str(length)), ("x-request-id", job_id)]
    if signer is not None:
        headers.append((SIGNER_HEADER, signer))
    async with aclosing(body), blobs.writing() as sink:
        taken = _Taken(sink)
        await app(_scope(request.endpoint, headers), _receiver(body), taken.send)
        return await taken.answer()


def _scope(path: str, headers: list[tuple[str, str]]) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
        "client": None,
        "server": None,
        "state": {},
    }


def _receiver(body: AsyncGenerator[bytes]) -> Any:
    """The body as messages. The client of a job never leaves: a job that is deleted is cancelled."""
    over = False

    async def receive() -> Message:
        nonlocal over
        if over:
            await asyncio.Event().wait()
        block = await anext(body, None)
        over = block is None
        return {"type": "http.request", "body": block or b"", "more_body": not over}

    return receive


class _Taken:
    """Takes an answer: a success into a blob, an error into memory."""

    def __init__(self, sink: BlobSink) -> None:
        self._sink = sink
        self._status = 0
        self._headers: dict[str, str] = {}
        self._error = bytearray()
        self._ended = False

    async def send(self, message: Message) -> None:
        """ASGI."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = {
                name.decode("latin-1").lower(): value.decode("latin-1") for name, value in message["headers"]
            }
        elif message["type"] == "http.response.body":
            self._ended = not message.get("more_body", False)
            if body := message.get("body"):
                await self._take(body)

    async def _take(self, body: bytes) -> None:
        if self._status < 300:
            await self._sink.write(body)
        else:
            self._error += body[: MOST_ERROR_BYTES - len(self._error)]

    async def answer(self) -> JobAnswer | Refusal:
        """All of it."""
        if not self._ended:
            raise IncompleteAnswerError(f"The answer of status {self._status} ended early.")
        kept = tuple((n, v) for n, v in self._headers.items() if n in KEPT_HEADERS or n.startswith("x-motet-"))
        if self._status < 300:
            return JobAnswer(self._status, kept, await self._sink.close())
        try:
            error = json.loads(self._error)["error"]
        except (ValueError, LookupError, TypeError) as cause:
            raise IncompleteAnswerError(f"The answer of status {self._status} is no error of this service.") from cause
        answer = JobAnswer(self._status, kept, error=error)
        retry_after = self._headers.get("retry-after")
        return Refusal(float(retry_after), answer) if retry_after and self._status in (429, 503) else answer


async def _body(request: JobRequest, blobs: Blobs) -> tuple[str, int, AsyncGenerator[bytes]]:
    """The content type, the length and the bytes of the request's body."""
    if (text := request.json_body) is not None:
        return "application/json", len(text.encode()), _once(text.encode())
    (name, digest), *_ = request.files
    if not name:
        return "application/json", (await blobs.blob(digest)).bytes, blobs.blocks(digest)
    boundary = secrets.token_hex(16)
    texts = b"".join(_part(boundary, name) + value.encode() + b"\r\n" for name, value in request.fields)
    end = f"--{boundary}--\r\n".encode()
    length = len(texts) + len(end)
    for name, digest in request.files:
        length += len(_part(boundary, name, file=True)) + (await blobs.blob(digest)).bytes + len(b"\r\n")

    async def form() -> AsyncGenerator[bytes]:
        if texts:
            yield texts
        for name, digest in request.files:
            yield _part(boundary, name, file=True)
            async for block in _closing(blobs.blocks(digest)):
                yield block
            yield b"\r\n"
        yield end

    return f"multipart/form-data; boundary={boundary}", length, form()


async def _once(data: bytes) -> AsyncGenerator[bytes]:
    yield data


async def _closing(blocks: AsyncGenerator[bytes]) -> AsyncIterable[bytes]:
    async with aclosing(blocks):
        async for block in blocks:
            yield block


def _part(boundary: str, name: str, *, file: bool = False) -> bytes:
    quoted = name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
    filename = '; filename="file"' if file else ""
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{quoted}"{filename}\r\n\r\n'.encode()
