"""POST /v1/audio/transcriptions and /v1/audio/translations: a recording in, text out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field, StringConstraints, field_validator
from starlette.responses import Response

from deployments.audio.stated_length import estimated_seconds
from deployments.engines.protocols import RecognitionOptions
from deployments.tasks.transcription import TranscriptionTask, TranscriptWindow, task_for
from serve_app.gateway.bodies.uploads import FormFields, Upload, UploadForm, answer_upload
from serve_app.gateway.errors import validated
from serve_app.gateway.fields import ModelName, RequestFields
from serve_app.gateway.service import Service, service_of
from serve_app.gateway.sse import event
from serve_app.gateway.streaming import event_stream
from serve_app.gateway.transcript_formats import TranscriptFormat, rendered

router = APIRouter()

FORM = FormFields(repeated=("timestamp_granularities",))


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

    async def answer(form: UploadForm) -> Response:
        return await _answer(form, request, service, translate=translate)

    return await answer_upload(request, FORM, answer, service.early)


async def _answer(form: UploadForm, request: Request, service: Service, *, translate: bool) -> Response:
    fields = validated(RecognitionFields, form.fields, strict=service.settings.strict)
    name = service.directory.resolve(fields.model, "transcription")
    service.directory.ensure_not_frozen(name)
    task = task_for(await service.directory.traits(name), fields.options(translate=translate))
    if fields.stream:
        task = replace(task, first_window_s=service.settings.windows.first_window_s)
    windows = transcribed(form.file, task, service, name, request)
    if fields.stream:
        return await event_stream(_events(windows))
    async with aclosing(windows):
        everything = [window async for window in windows]
    return rendered(everything, fields.response_format, fields, "translate" if translate else "transcribe")


def transcribed(
    file: Upload, task: TranscriptionTask, service: Service, name: str, request: Request
) -> AsyncGenerator[TranscriptWindow]:
    """The transcript of an upload by the model `name`, as it arrives. Raises `MotetError`."""
    task = replace(task, size_bytes=file.size)
    ticket = service.admit(name, request.headers, estimated_seconds(file.head, file.likely_size))
    assert service.transcripts is not None, "a model transcribes"
    upload = file.blocks(service.settings.recordings.block_bytes)
    return service.transcripts.run(upload, task, service.directory, ticket, name)


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
