"""POST /v1/audio/separations: a recording in, its stems out.

One stem is answered as a sound that streams while the rest is being separated. Several stems are answered as a ZIP file, or
interleaved as server-sent events.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field, StringConstraints
from starlette.responses import Response

from deployments.audio.chunking import plan_chunks
from deployments.audio.formats import FORMATS, AudioFormat
from deployments.audio.stated_length import estimated_seconds
from deployments.engines.protocols import SeparationTraits
from deployments.errors import fail, quoted
from deployments.settings import SeparationSettings
from deployments.tasks.separation import LEAST_ODE_STEP, MOST_ODE_STEP, Merged, OdeMethod, SeparationTask, ensure_takes
from serve_app.gateway.bodies.uploads import FormFields, Upload, UploadForm, answer_upload
from serve_app.gateway.description.operation import (
    AnswerContent,
    DescribedAnswer,
    FormBody,
    Operation,
    events_content,
    sounds,
)
from serve_app.gateway.errors import ErrorEvent, validated
from serve_app.gateway.fields import ModelName, RequestFields
from serve_app.gateway.separation_answers import SeparationEvent
from serve_app.gateway.separation_progress import SeparationProgress
from serve_app.gateway.service import Service, service_of
from serve_app.gateway.sse import MAX_AUDIO_BYTES, event
from serve_app.gateway.stem_archive import StemArchive
from serve_app.gateway.stem_sounds import encoded, one_stem
from serve_app.gateway.streaming import event_stream, stream_of

router = APIRouter()

MAX_REFERENCE_BYTES = 32 * 2**20
"""A minute of sound, the longest reference, has 12 MB in stereo at 48 kHz with 16 bits."""
FORM = FormFields(others=("reference",), repeated=("stems",))
MOST_STEMS = 32
"""Stems that a request may name. Further names are not read."""


class SeparationFields(RequestFields):
    """The form's fields, without its files. Seconds are of audio."""

    model: ModelName
    """The name or alias of a model that separates: see `GET /v1/models`."""
    description: Annotated[str, StringConstraints(max_length=1000)] | None = None
    """What to separate, in words, for a model that takes that."""
    ode_method: OdeMethod | None = None
    """How a model that solves an equation does it: `midpoint`, or `euler`, which is twice as fast and less exact."""
    ode_step_size: Annotated[float, Field(ge=LEAST_ODE_STEP, le=MOST_ODE_STEP)] | None = None
    """The size of its steps. A chunk takes 1 / `ode_step_size` steps."""
    chunk_seconds: Annotated[float, Field(gt=0)] | None = None
    """The length of a chunk."""
    overlap_seconds: Annotated[float, Field(ge=0)] | None = None
    """How much two chunks have in common."""
    response_format: AudioFormat = "wav"
    """The format of the stems."""
    stream_format: Literal["audio", "sse"] = "audio"
    """Whether the answer is the sound itself, or server-sent events."""
    stems: Annotated[tuple[Annotated[str, StringConstraints(max_length=64)], ...], Field(max_length=MOST_STEMS)] = ()
    """The wanted stems, one or several. Without any, all of the model's."""


SEPARATION = Operation(
    id="create_separation",
    tag="Separation",
    body=FormBody(SeparationFields, FORM),
    answers=(
        DescribedAnswer(
            "The stems: one as a sound, several as a ZIP file; with `stream_format: sse`, events.",
            (
                *sounds(FORMATS),
                AnswerContent("application/zip", bytes, "A file for each stem."),
                events_content(SeparationEvent | ErrorEvent),
            ),
            headers=("x-motet-model", "x-motet-stems", "content-disposition"),
        ),
    ),
    example={"model": "deepfilternet"},
    output="stems.zip",
)


@router.post("/v1/audio/separations", openapi_extra=SEPARATION.extra)
async def separations(request: Request) -> Response:
    """Separates a recording into stems."""
    service = service_of(request)
    return await answer_upload(request, FORM, lambda form: _separated(form, request, service), service.early)


async def _separated(form: UploadForm, request: Request, service: Service) -> Response:
    fields = validated(SeparationFields, _split_stems(form.fields), strict=service.settings.strict)
    name = service.directory.resolve(fields.model, "separation")
    service.directory.ensure_answers_soon(name)
    traits: SeparationTraits = await service.directory.traits(name)
    stems = _stems(fields, traits)
    task = await _task(fields, form, traits, service.settings.separation)
    headers = {"x-motet-model": name, "x-motet-stems": ",".join(stems)}
    progress = SeparationProgress(estimated_seconds(form.file.head, form.file.likely_size))
    answer = partial(_answer, stems=stems, fields=fields, headers=headers, progress=progress)
    # The sound of one stem cannot tell where it has a gap.
    gaps = traits.stems if fields.stream_format == "sse" or len(stems) > 1 else ()
    return await service.separated(form.file, task, name, request.headers, answer, gaps)


async def _answer(
    merged: AsyncGenerator[Merged],
    stems: Sequence[str],
    fields: SeparationFields,
    headers: dict[str, str],
    progress: SeparationProgress,
) -> Response:
    audio = fields.response_format
    if fields.stream_format == "sse":
        return await event_stream(_events(merged, stems, audio, progress), headers)
    if len(stems) == 1:
        return await stream_of(one_stem(merged, stems[0], audio), FORMATS[audio].media_type, headers)
    headers["content-disposition"] = 'attachment; filename="stems.zip"'
    return await stream_of(_archive(merged, stems, audio, progress), "application/zip", headers)


def _split_stems(fields: dict[str, Any]) -> dict[str, Any]:
    """`stems=a,b` is the same as `stems=a` twice."""
    names = (name.strip() for text in fields.get("stems", []) for name in text.split(",", MOST_STEMS + 1))
    stems = [name for name in names if name]
    return {**fields, "stems": stems}


def _stems(fields: SeparationFields, traits: SeparationTraits) -> tuple[str, ...]:
    """The requested stems, or all of them. Raises `MotetError` (invalid) for an unknown one."""
    for stem in fields.stems:
        if stem not in traits.stems:
            raise fail(
                "invalid",
                f"The model {quoted(fields.model)} has no stem {quoted(stem)}.",
                f"Its stems: {', '.join(traits.stems)}.",
                param="stems",
                code="stem_not_found",
            )
    return tuple(dict.fromkeys(fields.stems)) or traits.stems


async def _task(
    fields: SeparationFields, form: UploadForm, traits: SeparationTraits, settings: SeparationSettings
) -> SeparationTask:
    reference = form.files.get("reference")
    chunk = fields.chunk_seconds or settings.chunk_s
    if not settings.min_chunk_s <= chunk <= settings.max_chunk_s:
        raise fail(
            "invalid",
            f"chunk_seconds is {chunk:g}.",
            f"Use {settings.min_chunk_s:g} to {settings.max_chunk_s:g} s.",
            param="chunk_seconds",
        )
    task = SeparationTask.for_model(traits, settings, chunk, fields.overlap_seconds)
    # Raises for an invalid overlap before anything is decoded.
    plan_chunks(task.chunk_seconds, task.overlap_seconds, min(traits.sample_rates))
    task = replace(
        task,
        description=fields.description or None,
        reference=b"" if reference is not None else None,
        ode_method=fields.ode_method,
        ode_step_size=fields.ode_step_size,
        size_bytes=form.file.size,
    )
    ensure_takes(task, traits, fields.model)  # before the reference is read
    return task if reference is None else replace(task, reference=await _read_reference(reference))


async def _read_reference(reference: Upload) -> bytes:
    """The file of a reference. Raises `MotetError` (too_large)."""
    data = await reference.read_part(MAX_REFERENCE_BYTES + 1)
    if len(data) > MAX_REFERENCE_BYTES:
        cause = f"The reference has over {MAX_REFERENCE_BYTES // 2**20} MB."
        raise fail("too_large", cause, "Send less sound, or a smaller format.", param="reference")
    return data


async def _events(
    merged: AsyncGenerator[Merged], stems: Sequence[str], audio: AudioFormat, progress: SeparationProgress
) -> AsyncGenerator[bytes]:
    """Events with the bytes of all stems, and after each chunk how far the separation is. The stems take turns within a chunk
    too, so that a client can play them side by side."""
    chunk: dict[str, bytes] = {}
    async with aclosing(encoded(progress.follow(merged), stems, audio)) as parts:
        async for stem, data in parts:
            chunk[stem] = data
            if len(chunk) == len(stems):
                for each, piece in _in_turn(chunk):
                    text = base64.b64encode(piece).decode()
                    yield event({"type": "separation.audio.delta", "stem": each, "audio": text})
                chunk.clear()
                for facts in progress.events("separation"):
                    yield event(facts)
    yield event({"type": "separation.audio.done", "stems": list(stems)})


def _in_turn(chunk: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """The first piece of each stem, then the second of each, and so on. A piece fits into one event."""
    for start in range(0, max(map(len, chunk.values())), MAX_AUDIO_BYTES):
        for stem, data in chunk.items():
            if piece := data[start : start + MAX_AUDIO_BYTES]:
                yield stem, piece


async def _archive(
    merged: AsyncGenerator[Merged], stems: Sequence[str], audio: AudioFormat, progress: SeparationProgress
) -> AsyncGenerator[bytes]:
    """A ZIP file. Its first stem is sent as it is ready; the others wait on disk. Gaps are listed in a file beside them."""
    names = {stem: f"{stem}.{FORMATS[audio].extension}" for stem in stems}
    archive = StemArchive(names)
    try:
        async with aclosing(encoded(progress.follow(merged), stems, audio)) as parts:
            async for stem, data in parts:
                if ready := await asyncio.to_thread(archive.add, stem, data):
                    yield ready
        rest = archive.rest(progress.report())
        while (block := await asyncio.to_thread(next, rest, None)) is not None:
            yield block
    finally:
        archive.close()
