"""POST /v1/audio/transcriptions and /v1/audio/translations: a recording in, text out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from starlette.responses import Response

from deployments.audio.stated_length import estimated_seconds
from deployments.engines.protocols import RecognitionTraits
from deployments.tasks.transcription import TranscriptWindow
from serve_app.gateway.bodies.uploads import read_form
from serve_app.gateway.errors import validated
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.service import service_of
from serve_app.gateway.streaming import event_stream
from serve_app.gateway.transcript_events import events
from serve_app.gateway.transcript_formats import rendered
from serve_app.gateway.transcription_fields import REPEATED, RecognitionFields, TranscriptionFields, TranslationFields

router = APIRouter()


@router.post("/v1/audio/transcriptions")
async def transcriptions(request: Request) -> Response:
    """Transcribes a recording in its own language."""
    return await _recognized(request, TranscriptionFields)


@router.post("/v1/audio/translations")
async def translations(request: Request) -> Response:
    """Transcribes a recording in any language into English, with a model that can."""
    return await _recognized(request, TranslationFields)


async def _recognized(request: Request, schema: type[RecognitionFields]) -> Response:
    service = service_of(request)
    directory = service.directory
    form = await read_form(request, repeated=REPEATED)
    try:
        fields = validated(schema, form.fields, strict=service.settings.strict)
        name = directory.resolve(fields.model, "transcription")
        directory.ensure_not_frozen(name)
        traits: RecognitionTraits = await directory.traits(name)
        fields.check(traits)
        recording = await form.file.read()
    finally:
        await form.close()
    ticket = service.admit(name, request.headers, estimated_seconds(form.file.head, form.file.likely_size))
    windows = _counted(directory.stream(name, "transcribe", recording, fields.options(traits), ticket=ticket), ticket)
    contents = fields.contents(service.settings.subtitles)
    if fields.stream:
        return await event_stream(events(windows, contents))
    async with aclosing(windows):
        everything = [window async for window in windows]
    return await asyncio.to_thread(rendered, everything, contents)


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
