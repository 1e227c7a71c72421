"""Multipart forms with a recording: read as a whole, or answered while the recording arrives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from deployments.errors import MotetError, clipped, fail
from serve_app.gateway.bodies.arrival import FormArrival, late_fields
from serve_app.gateway.bodies.form_parser import FormParser
from serve_app.gateway.bodies.input_thread import in_input_thread
from serve_app.gateway.bodies.storage import HEAD_BYTES, Spool
from serve_app.gateway.request_context import SERVE_NOW, current_request
from serve_app.gateway.routing.open_limits import EarlyAnswers
from serve_app.gateway.streaming import ClosingStream, EventStream


class Upload:
    """A file of a form, of which `head` are the first bytes. It may still be arriving. It is read on an input thread."""

    def __init__(self, spool: Spool, arrival: FormArrival, check: Callable[[], None]) -> None:
        self._spool = spool
        self._arrival = arrival
        self._check = check
        self.head = spool.head
        self.name = spool.name
        """The file's name on the client's disk, as the client says."""
        self.size = spool.size if arrival.over else arrival.announced_bytes
        """Bytes; of a file that is still arriving those of the whole form, or None if the client did not say."""

    @property
    def likely_size(self) -> int:
        """`size`, or what has arrived."""
        return self.size or self._spool.size

    async def read_part(self, count: int) -> bytes:
        """Its first `count` bytes, once it has arrived, which may be before the end of the form."""
        await self._arrival.until(lambda: self._spool.ended)
        self._check()
        return await in_input_thread(True, self._spool.read_at, 0, count)

    async def read(self) -> bytes:
        """All of it, once it has arrived."""
        return b"".join([block async for block in self.blocks(-1)])

    async def blocks(self, block_bytes: int) -> AsyncIterator[bytes]:
        """The file in blocks of at most `block_bytes`, as it arrives. Raises what ended the form early, and `LateFields`."""
        read = 0

        def more() -> bool:
            return self._spool.size > read or self._spool.ended

        while True:
            await self._arrival.until(more)
            self._check()
            if block := await in_input_thread(self._spool.on_disk, self._spool.read_at, read, block_bytes):
                read += len(block)
                yield block
            elif self._spool.ended:
                break
            elif self._arrival.over:
                raise missing_file()  # the form ends in the middle of it
        await self._arrival.until(_never)
        self._check()


@dataclass(frozen=True, slots=True)
class UploadForm:
    """A form: its recording, its other files, its text fields, and its long texts. Fields that may repeat are lists."""

    file: Upload
    files: dict[str, Upload]
    fields: dict[str, Any]
    long_texts: dict[str, list[Upload]]
    arrival: FormArrival

    async def close(self) -> None:
        """Removes the files."""
        await self.arrival.close()


@dataclass(frozen=True, slots=True)
class FormFields:
    """The fields of a form. `recording` is its recording, `others` are other files that are used, `repeated` those that are
    lists, `long_texts` lists of long texts, and `needed` those without which no answer can begin."""

    recording: str = "file"
    others: Collection[str] = ()
    repeated: Collection[str] = ()
    long_texts: Collection[str] = ()
    needed: Collection[str] = ("model",)


async def read_form(
    request: Request, repeated: Collection[str] = (), recording: str = "file", others: Collection[str] = ()
) -> UploadForm:
    """Reads the form of a request; large files go to disk. Other files than `recording` and `others` are ignored, which the
    request's record notes. The caller closes the form. Raises `MotetError`."""
    fields = FormFields(recording, others, repeated)
    arrival = _arrival(request, fields)
    try:
        await arrival.until(_never)
        return _form(arrival, fields)
    except BaseException:
        await arrival.close()
        raise


async def answer_upload(
    request: Request,
    fields: FormFields,
    answer: Callable[[UploadForm], Awaitable[Response]],
    early: EarlyAnswers,
) -> Response:
    """Answers a form as soon as its recording begins, if the needed fields came before it. If other fields follow it, the
    answer begins again. Events are sent while the recording arrives; any other answer is sent after the end of the form."""
    arrival = _arrival(request, fields)
    try:
        await arrival.until(lambda: _can_begin(arrival.parser, fields))
        response = None
        if not arrival.over and early.begin(arrival.on_end):
            SERVE_NOW.get()()
            response = await _early_answer(arrival, fields, answer)
        if response is None:
            await arrival.until(_never)
            response = await answer(_form(arrival, fields))
    except BaseException:
        await arrival.close()
        raise
    return _UploadResponse(response, arrival)


async def _early_answer(
    arrival: FormArrival, fields: FormFields, answer: Callable[[UploadForm], Awaitable[Response]]
) -> Response | None:
    """The answer to a form that is still arriving; None if fields follow the recording. A refusal is sent after
    the end of the form, because a client may read nothing before it has sent everything."""
    try:
        response = await answer(_form(arrival, fields))
    except MotetError:
        await arrival.until(_never)
        if not _late(arrival.parser, fields):
            raise
        return None
    if isinstance(response, EventStream):
        return response
    used = False
    try:
        await arrival.until(_never)
        used = not _late(arrival.parser, fields)
    finally:
        if not used and isinstance(response, ClosingStream):
            await response.close()
    return response if used else None


def _never() -> bool:
    return False


def _can_begin(parser: FormParser, fields: FormFields) -> bool:
    """Whether the recording has begun, with the needed fields before it."""
    known = {name for name, _ in parser.fields}
    begun = dict(parser.files).get(fields.recording)
    return begun is not None and known.issuperset(fields.needed) and (begun.size >= HEAD_BYTES or begun.ended)


def _late(parser: FormParser, fields: FormFields) -> list[str]:
    """The names of parts after the recording."""
    return parser.begun[parser.begun.index(fields.recording) + 1 :] if fields.recording in parser.begun else []


class _UploadResponse(Response):
    """A response whose form is closed after it."""

    def __init__(self, response: Response, arrival: FormArrival) -> None:
        self._response = response
        self._arrival = arrival
        self.status_code, self.background = response.status_code, None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""

        async def after_upload() -> Message:
            """The form's own reader takes the messages of the body; the response waits for the client's end only."""
            try:
                await self._arrival.until(_never)
            except Exception:
                if self._arrival.left:
                    return {"type": "http.disconnect"}
            return await receive()

        try:
            await self._response(scope, after_upload, send)
        finally:
            await self._arrival.close()


def _arrival(request: Request, fields: FormFields) -> FormArrival:
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise fail(
            "invalid",
            "The request body must be a multipart form.",
            f"Send the recording as the field {fields.recording!r}.",
            param=fields.recording,
        )
    return FormArrival(request, content_type, fields.long_texts)


def _form(arrival: FormArrival, wanted: FormFields) -> UploadForm:
    """What has arrived. Raises `MotetError` if there is no recording, or more than one."""
    parser, early = arrival.parser, not arrival.over
    fields: dict[str, Any] = {}
    for name, value in parser.fields:
        plain = name.removesuffix("[]")
        if plain in wanted.repeated:
            fields.setdefault(plain, []).append(value)
        else:
            fields[plain] = value

    def check() -> None:
        if early and (late := _late(parser, wanted)):
            raise late_fields(clipped(late[0]))

    uploads: dict[str, Upload] = {}
    long_texts: dict[str, list[Upload]] = {name: [] for name in wanted.long_texts}
    for name, spool in parser.files:
        plain, upload = name.removesuffix("[]"), Upload(spool, arrival, check)
        if (listed := name.partition("[")[0]) in wanted.long_texts:
            long_texts[listed].append(upload)
        elif plain == wanted.recording and plain in uploads:
            raise _two_recordings(plain)
        elif early or spool.ended:
            uploads[plain] = upload
    file = uploads.pop(wanted.recording, None)
    if file is None:
        raise missing_file(wanted.recording)
    current_request().ignore(name for name in uploads if name not in wanted.others)
    return UploadForm(file, uploads, _nested(fields), long_texts, arrival)


def _nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, of which `a[b]` are parts of the object `a`, as OpenAI's client sends objects, and `a[0]` of the list `a`,
    as some clients send lists."""
    nested: dict[str, Any] = {}
    for name, value in fields.items():
        outer, bracket, inner = name.removesuffix("]").partition("[")
        if not bracket:
            nested[name] = value
        elif isinstance(parts := nested.setdefault(outer, {}), dict):
            parts[inner] = value
    return {name: _listed(value) for name, value in nested.items()}


def _listed(value: Any) -> Any:
    if isinstance(value, dict) and all(map(str.isdecimal, value)):
        return [value[number] for number in sorted(value, key=lambda number: (len(number), number))]
    return value


def _two_recordings(recording: str) -> MotetError:
    cause = f"The form has more than one recording as {recording!r}."
    return fail("invalid", cause, "Send a request for each.", param=recording, code="repeated_file")


def missing_file(recording: str = "file") -> MotetError:
    """The error for a form without a recording."""
    return fail(
        "invalid",
        "The form has no recording.",
        f"Send it as the form field {recording!r}.",
        param=recording,
        code="missing",
    )
