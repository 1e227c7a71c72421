"""Multipart forms: one recording and some fields, checked against a strict schema."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from deployments.errors import MotetError, fail
from serve_app.gateway.bodies.form_parser import File, FormParser
from serve_app.gateway.bodies.input_thread import in_input_thread
from serve_app.gateway.request_context import current_request

BLOCK_BYTES = 256 * 1024
"""Of a form, that are parsed at once."""
INLINE_BYTES = 4 * 1024
"""A form up to this size is parsed on the event loop, in at most 2 ms whatever it contains."""

HEAD_BYTES = 64
"""Enough for the header of a WAV file."""


class Upload:
    """A file of a form: `size` bytes, of which `head` are the first. It is read on an input thread."""

    def __init__(self, file: File) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self.head = file.read(HEAD_BYTES)
        file.seek(0)

    async def read(self, count: int = -1) -> bytes:
        """The next `count` bytes, or all."""
        return await in_input_thread(True, self._file.read, count)


@dataclass(frozen=True, slots=True)
class UploadForm:
    """A parsed form: its recording, its other files, and its text fields. Fields that may repeat are lists."""

    file: Upload
    files: dict[str, Upload]
    fields: dict[str, Any]
    parser: FormParser

    async def close(self) -> None:
        """Removes the files."""
        await _close(self.parser)


async def _close(parser: FormParser) -> None:
    """Freeing the space of a large file takes a disk some time."""
    await in_input_thread(parser.on_disk, parser.close)


async def read_form(
    request: Request, repeated: Collection[str] = (), recording: str = "file", others: Collection[str] = ()
) -> UploadForm:
    """Reads the form of a request; large files go to disk. `recording` names the field of the recording, `others` the fields
    of other files, `repeated` those that are lists. Further files are ignored, which the request's record notes. The caller
    closes the form. Raises `MotetError`."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise fail(
            "invalid",
            "The request body must be a multipart form.",
            f"Send the recording as the field {recording!r}.",
            param=recording,
        )
    parser = FormParser(content_type)
    try:
        await _feed(parser, request)
        form = _sorted_out(parser, repeated, recording)
        current_request().ignore(name for name in form.files if name not in others)
        return form
    except BaseException:
        await _close(parser)
        raise


async def _feed(parser: FormParser, request: Request) -> None:
    """Parses in blocks: neither one thread call for each chunk nor a long call on the event loop."""
    waiting, large = bytearray(), False
    async for chunk in request.stream():
        waiting += chunk
        if len(waiting) >= BLOCK_BYTES:
            large = True
            await in_input_thread(large, parser.feed, bytes(waiting))
            waiting.clear()
    await in_input_thread(large or len(waiting) > INLINE_BYTES, _finish, parser, bytes(waiting))


def _finish(parser: FormParser, rest: bytes) -> None:
    parser.feed(rest)
    parser.end()


def _sorted_out(parser: FormParser, repeated: Collection[str], recording: str) -> UploadForm:
    fields: dict[str, Any] = {}
    for name, value in parser.fields:
        plain = name.removesuffix("[]")
        if plain in repeated:
            fields.setdefault(plain, []).append(value)
        else:
            fields[plain] = value
    files = {name.removesuffix("[]"): Upload(file) for name, file in parser.files}
    file = files.pop(recording, None)
    if file is None:
        raise missing_file(recording)
    return UploadForm(file, files, fields, parser)


def missing_file(recording: str = "file") -> MotetError:
    """The error for a form without a recording."""
    return fail(
        "invalid",
        "The form has no recording.",
        f"Send it as the form field {recording!r}.",
        param=recording,
        code="missing",
    )


async def blocks_of(file: Upload, block_bytes: int) -> AsyncIterator[bytes]:
    """The file in blocks of at most `block_bytes`."""
    while block := await file.read(block_bytes):
        yield block
