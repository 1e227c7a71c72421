"""POST /v1/audio/transcriptions and /v1/audio/translations: a recording in, text out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field, StringConstraints, field_validator
from starlette.responses import Response

from deployments.audio.stated_length import estimated_seconds
from deployments.engines.protocols import RecognitionOptions
from deployments.tasks.transcription import TranscriptWindow
from serve_app.gateway.bodies.uploads import read_form
from serve_app.gateway.errors import validated
from serve_app.gateway.fields import ModelName, RequestFields
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.service import service_of
from serve_app.gateway.sse import event
from serve_app.gateway.streaming import event_stream
from serve_app.gateway.transcript_formats import TranscriptFormat, rendered

router = APIRouter()


class RecognitionFields(RequestFields):
    """The form's fields, as OpenAI names them, without the file."""

    model: ModelName
    language: Annotated[str, StringConstraints(max_length=64)] | None = None
    prompt: Annotated[str, StringConstraints(max_length=4096)] | None = None
    response_format: TranscriptFormat = "json"
    temperature: Annotated[float, Field(ge=0, le=1)] = 0.0
    stream: bool = False
    timestamp_granularities: tuple[Literal["word", "segment"], ...] = ("segment",)

    @field_validator("language")
    @classmethod
    def _plain_language(cls, language: str | None) -> str | None:
        """`en-US` and `EN` mean `en`."""
        return language.lower().split("-")[0] if language else None

    def options(self, *, translate: bool) -> RecognitionOptions:
        """The options for the engine."""
        return RecognitionOptions(
            language=self.language,
            prompt=self.prompt or None,
            temperature=self.temperature,
            translate=translate,
            word_times="word" in self.timestamp_granularities,
        )


@router.post("/v1/audio/transcriptions")
async def transcriptions(request: Request) -> Response:
    """Transcribes a recording in its own language."""
    return await _recognized(request, translate=False)


@router.post("/v1/audio/translations")
async def translations(request: Request) -> Response:
    """Transcribes a recording in any language into English, with a model that can."""
    return await _recognized(request, translate=True)


async def _recognized(request: Request, *, translate: bool) -> Response:
    service = service_of(request)
    directory = service.directory
    form = await read_form(request, repeated=("timestamp_granularities",))
    try:
        fields = validated(RecognitionFields, form.fields, strict=service.settings.strict)
        name = directory.resolve(fields.model, "transcription")
        recording = await form.file.read()
    finally:
        await form.close()
    ticket = service.admit(name, request.headers, estimated_seconds(form.file.head, form.file.likely_size))
    options = fields.options(translate=translate)
    windows = _counted(directory.stream(name, "transcribe", recording, options, ticket=ticket), ticket)
    if fields.stream:
        return await event_stream(_events(windows))
    async with aclosing(windows):
        everything = [window async for window in windows]
    return rendered(everything, fields.response_format, fields, "translate" if translate else "transcribe")


async def _counted(windows: AsyncGenerator[TranscriptWindow], ticket: Ticket) -> AsyncGenerator[TranscriptWindow]:
    """The same windows. Admission, and through it the request's log, learns how much of the recording is done."""
    done_seconds = 0.0
    try:
        async with aclosing(windows):
            async for window in windows:
                ticket.record_made(window.until_seconds - done_seconds)
                done_seconds = window.until_seconds
                yield window
        ticket.complete()
    finally:
        ticket.close()


async def _events(windows: AsyncGenerator[TranscriptWindow]) -> AsyncGenerator[bytes]:
    """OpenAI's events: a delta for each window, then the whole text."""
    said, seconds = "", 0.0
    async with aclosing(windows):
        async for window in windows:
            seconds = window.until_seconds
            if text := window.text:
                delta = f" {text}" if said else text
                said += delta
                yield event({"type": "transcript.text.delta", "delta": delta})
    yield event({"type": "transcript.text.done", "text": said, "usage": {"type": "duration", "seconds": seconds}})
