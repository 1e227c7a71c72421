"""POST /v1/audio/transcriptions and /v1/audio/translations: a recording in, text out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import Response

from deployments.audio.stated_length import estimated_seconds
from deployments.engines.protocols import RecognitionTraits
from deployments.tasks.diarization import SpeakerTask
from deployments.tasks.transcription import TranscriptionTask, TranscriptWindow, task_for
from serve_app.gateway.bodies.uploads import FormFields, Upload, UploadForm, answer_upload
from serve_app.gateway.description.operation import AnswerContent, DescribedAnswer, FormBody, Operation, events_content
from serve_app.gateway.errors import ErrorEvent, validated
from serve_app.gateway.request_context import current_request
from serve_app.gateway.service import Service, service_of
from serve_app.gateway.speaker_fields import REFERENCES, speaker_task
from serve_app.gateway.streaming import event_stream
from serve_app.gateway.transcript_answers import (
    DiarizedTranscript,
    PlainTranscript,
    TranscriptDelta,
    TranscriptDone,
    TranscriptEvent,
    VerboseTranscript,
)
from serve_app.gateway.transcript_events import events
from serve_app.gateway.transcript_formats import rendered
from serve_app.gateway.transcription_fields import REPEATED, RecognitionFields, TranscriptionFields, TranslationFields

router = APIRouter()

FORM = FormFields(repeated=REPEATED, long_texts=(REFERENCES,))

TEXTS = (
    AnswerContent("text/plain", str, "With `text`, `srt` or `rttm`: the words, subtitles, or who speaks when."),
    AnswerContent("text/vtt", str, "With `vtt`: subtitles."),
)
EXAMPLE = {"model": "whisper-1"}
TRANSCRIPTION = Operation(
    id="create_transcription",
    tag="Transcription",
    body=FormBody(TranscriptionFields, FORM),
    answers=(
        DescribedAnswer(
            "The transcript in the requested format; with `stream`, events.",
            (
                AnswerContent("application/json", PlainTranscript | VerboseTranscript | DiarizedTranscript),
                *TEXTS,
                events_content(TranscriptEvent | ErrorEvent),
            ),
        ),
    ),
    example=EXAMPLE,
)
TRANSLATION = Operation(
    id="create_translation",
    tag="Transcription",
    body=FormBody(TranslationFields, replace(FORM, long_texts=())),
    answers=(
        DescribedAnswer(
            "The transcript in English, in the requested format; with `stream`, events.",
            (
                AnswerContent("application/json", PlainTranscript | VerboseTranscript),
                *TEXTS,
                events_content(TranscriptDelta | TranscriptDone | ErrorEvent),
            ),
        ),
    ),
    example=EXAMPLE,
)


@router.post("/v1/audio/transcriptions", openapi_extra=TRANSCRIPTION.extra)
async def transcriptions(request: Request) -> Response:
    """Transcribes a recording in its own language."""
    return await _recognized(request, TranscriptionFields)


@router.post("/v1/audio/translations", openapi_extra=TRANSLATION.extra)
async def translations(request: Request) -> Response:
    """Transcribes a recording in any language into English, with a model that can."""
    return await _recognized(request, TranslationFields)


async def _recognized(request: Request, schema: type[RecognitionFields]) -> Response:
    service = service_of(request)

    async def answer(form: UploadForm) -> Response:
        return await _answer(form, request, service, schema)

    return await answer_upload(request, FORM, answer, service.early)


async def _answer(form: UploadForm, request: Request, service: Service, schema: type[RecognitionFields]) -> Response:
    directory = service.directory
    references = form.long_texts[REFERENCES]
    # A translation has no such field: it is like any other unknown one.
    unknown = {REFERENCES: len(references)} if references and schema is not TranscriptionFields else {}
    fields = validated(schema, {**form.fields, **unknown}, strict=service.settings.strict)
    name = directory.resolve(fields.model, "transcription")
    directory.ensure_answers_soon(name)
    traits: RecognitionTraits = await directory.traits(name)
    fields.check(traits)
    windows_settings = service.settings.windows
    task = replace(
        task_for(traits, fields.options(traits)),
        channels=fields.channels,
        speakers=await _speakers(fields, form),
        voice_activity=fields.voice_activity(windows_settings.voice_activity),
        first_window_s=windows_settings.first_window_s if fields.stream else None,
    )
    contents = fields.contents(service.settings.subtitles)
    windows = transcribed(form.file, task, service, name, request)
    if fields.stream:
        return await event_stream(events(windows, contents))
    async with aclosing(windows):
        everything = [window async for window in windows]
    return await asyncio.to_thread(rendered, everything, contents)


async def _speakers(fields: RecognitionFields, form: UploadForm) -> SpeakerTask | None:
    references = form.long_texts[REFERENCES]
    if isinstance(fields, TranscriptionFields) and fields.diarizes:
        return await speaker_task(fields, references)
    if references:
        current_request().ignore([REFERENCES])
    return None


def transcribed(
    file: Upload, task: TranscriptionTask, service: Service, name: str, request: Request
) -> AsyncGenerator[TranscriptWindow]:
    """The transcript of an upload by the model `name`, as it arrives. Raises `MotetError`."""
    task = replace(task, size_bytes=file.size)
    ticket = service.admit(name, request.headers, estimated_seconds(file.head, file.likely_size))
    assert service.transcripts is not None, "a model transcribes"
    upload = file.blocks(service.settings.recordings.block_bytes)
    return service.transcripts.run(upload, task, service.directory, ticket, name)
