"""POST /v1/audio/enhancements: a recording in, its speech without the noise out, as a sound or as server-sent events."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from deployments.audio.formats import FORMATS, AudioFormat
from deployments.audio.stated_length import estimated_seconds
from deployments.engines.protocols import SeparationTraits
from deployments.tasks.enhancement import SPEECH, ensure_enhances
from deployments.tasks.separation import Merged, SeparationTask
from serve_app.gateway.bodies.uploads import FormFields, UploadForm, answer_upload
from serve_app.gateway.description.operation import DescribedAnswer, FormBody, Operation, events_content, sounds
from serve_app.gateway.errors import ErrorEvent, validated
from serve_app.gateway.fields import ModelName, RequestFields
from serve_app.gateway.separation_answers import EnhancementEvent
from serve_app.gateway.separation_progress import SeparationProgress
from serve_app.gateway.service import Service, service_of
from serve_app.gateway.sse import MAX_AUDIO_BYTES, event
from serve_app.gateway.stem_sounds import one_stem
from serve_app.gateway.streaming import event_stream, stream_of

router = APIRouter()

FORM = FormFields(needed=())


class EnhancementFields(RequestFields):
    """The form's fields, without its file. Without a model, the first of the configuration that separates is used."""

    model: ModelName | None = None
    """The name or alias of a model that separates."""
    response_format: AudioFormat = "wav"
    """The format of the sound."""
    stream_format: Literal["audio", "sse"] = "audio"
    """Whether the answer is the sound itself, or server-sent events."""


ENHANCEMENT = Operation(
    id="create_enhancement",
    tag="Separation",
    body=FormBody(EnhancementFields, FORM),
    answers=(
        DescribedAnswer(
            "The speech without the noise, streamed as it is made; with `stream_format: sse`, events.",
            (*sounds(FORMATS), events_content(EnhancementEvent | ErrorEvent)),
            headers=("x-motet-model",),
        ),
    ),
    output="enhanced.wav",
)


@router.post("/v1/audio/enhancements", openapi_extra=ENHANCEMENT.extra)
async def enhancements(request: Request) -> Response:
    """Takes the noise out of a recording."""
    service = service_of(request)
    return await answer_upload(request, FORM, lambda form: _enhanced(form, request, service), service.early)


async def _enhanced(form: UploadForm, request: Request, service: Service) -> Response:
    fields = validated(EnhancementFields, form.fields, strict=service.settings.strict)
    name = service.directory.resolve(fields.model or service.directory.first("separation"), "separation")
    service.directory.ensure_answers_soon(name)
    traits: SeparationTraits = await service.directory.traits(name)
    ensure_enhances(name, traits)
    task = replace(SeparationTask.for_model(traits, service.settings.separation), size_bytes=form.file.size)
    progress = SeparationProgress(estimated_seconds(form.file.head, form.file.likely_size))
    answer = partial(_answer, fields=fields, model=name, progress=progress)
    # A sound cannot tell where it has a gap.
    gaps = traits.stems if fields.stream_format == "sse" else ()
    return await service.separated(form.file, task, name, request.headers, answer, gaps)


async def _answer(
    merged: AsyncGenerator[Merged], fields: EnhancementFields, model: str, progress: SeparationProgress
) -> Response:
    sound = one_stem(progress.follow(merged), SPEECH, fields.response_format)
    headers = {"x-motet-model": model}
    if fields.stream_format == "sse":
        return await event_stream(_events(sound, progress), headers)
    return await stream_of(sound, FORMATS[fields.response_format].media_type, headers)


async def _events(sound: AsyncGenerator[bytes], progress: SeparationProgress) -> AsyncGenerator[bytes]:
    async with aclosing(sound):
        async for data in sound:
            for start in range(0, len(data), MAX_AUDIO_BYTES):
                text = base64.b64encode(data[start : start + MAX_AUDIO_BYTES]).decode()
                yield event({"type": "enhancement.audio.delta", "audio": text})
            for facts in progress.events("enhancement"):
                yield event(facts)
    yield event({"type": "enhancement.audio.done"})
