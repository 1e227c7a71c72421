"""POST /v1/audio/speech/timestamps: a recording in, where somebody speaks out, as the project speaches answers it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response
from typing_extensions import TypedDict

from deployments.settings import VoiceActivitySettings
from deployments.tasks.voice_activity import SpeechSection, SpeechTicket, VoiceActivityTask
from serve_app.gateway.bodies.uploads import FormFields, UploadForm, answer_upload
from serve_app.gateway.description.operation import FormBody, Operation, json_answer
from serve_app.gateway.errors import validated
from serve_app.gateway.fields import RequestFields
from serve_app.gateway.request_context import current_request
from serve_app.gateway.service import Service, service_of

router = APIRouter()

FORM = FormFields(needed=())
LONGEST_MS = 60_000

Milliseconds = Annotated[float, Field(ge=0, le=LONGEST_MS)]


class VoiceActivityFields(RequestFields):
    """The form's fields, without the file. Without a value, that of the service's configuration is used."""

    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The probability of speech at which speech begins."""
    neg_threshold: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Ignored: speech ends 0.15 below the threshold."""
    min_speech_duration_ms: Milliseconds | None = None
    """Shorter speech is left out."""
    max_speech_duration_s: Annotated[float, Field(ge=1)] = math.inf
    """Longer speech is divided into equal parts."""
    min_silence_duration_ms: Milliseconds | None = None
    """A silence of this length divides speech."""
    speech_pad_ms: Annotated[float, Field(ge=0, le=2000)] | None = None
    """Sound around speech that belongs to it."""

    def settings(self, usual: VoiceActivitySettings) -> VoiceActivitySettings:
        """What counts as speech. Speech ends 0.15 below the threshold; a `neg_threshold` is noted as ignored."""
        if self.neg_threshold is not None:
            current_request().ignore(["neg_threshold"])
        values = {
            "threshold": self.threshold,
            "min_speech_ms": self.min_speech_duration_ms,
            "min_silence_ms": self.min_silence_duration_ms,
            "pad_ms": self.speech_pad_ms,
        }
        return usual.model_copy(update={name: value for name, value in values.items() if value is not None})


class SpeechTimes(TypedDict):
    """Somebody speaks: from `start` to `end`, in ms of the recording."""

    start: int
    end: int


VOICE_ACTIVITY = Operation(
    id="find_speech",
    tag="Transcription",
    body=FormBody(VoiceActivityFields, FORM),
    answers=(json_answer(list[SpeechTimes], "Where somebody speaks, in order."),),
)


@router.post("/v1/audio/speech/timestamps", openapi_extra=VOICE_ACTIVITY.extra)
async def speech_timestamps(request: Request) -> Response:
    """Says where somebody speaks in a recording."""
    service = service_of(request)
    return await answer_upload(request, FORM, lambda form: _timestamps(form, request, service), service.early)


async def _timestamps(form: UploadForm, request: Request, service: Service) -> Response:
    fields = validated(VoiceActivityFields, form.fields, strict=service.settings.strict)
    settings = fields.settings(service.settings.windows.voice_activity)
    task = VoiceActivityTask(form.file.size, voice_activity=settings)
    tickets: list[SpeechTicket] = await service.analysed(form.file, task, request.headers)
    sections = (section for ticket in tickets for section in ticket.sections)
    parts = (part for section in sections for part in _parts(section, fields.max_speech_duration_s))
    times: list[SpeechTimes] = [
        {"start": round(1000 * start_s), "end": round(1000 * end_s)} for start_s, end_s in parts
    ]
    return JSONResponse(times)


def _parts(section: SpeechSection, longest_s: float) -> Iterator[tuple[float, float]]:
    """A section in equal parts of at most `longest_s`."""
    seconds = section.end_s - section.start_s
    count = max(1, math.ceil(seconds / longest_s))
    for number in range(count):
        yield section.start_s + seconds * number / count, section.start_s + seconds * (number + 1) / count
