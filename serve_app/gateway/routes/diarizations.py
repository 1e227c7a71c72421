"""POST /v1/audio/diarizations: a recording in, who speaks when out."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from typing_extensions import TypedDict

from deployments.tasks.diarization import rttm
from deployments.tasks.voice_activity import SpeechTicket, VoiceActivityTask
from serve_app.gateway.bodies.uploads import FormFields, UploadForm, answer_upload
from serve_app.gateway.description.operation import AnswerContent, DescribedAnswer, FormBody, Operation
from serve_app.gateway.errors import validated
from serve_app.gateway.service import Service, service_of
from serve_app.gateway.speaker_fields import REFERENCES, SpeakerFields, speaker_task
from serve_app.gateway.transcript_answers import DurationUsage
from serve_app.gateway.transcript_formats import RECORDING

router = APIRouter()

FORM = FormFields(repeated=("known_speaker_names",), long_texts=(REFERENCES,), needed=())


class DiarizationFields(SpeakerFields):
    """The form's fields, without its files."""

    response_format: Literal["json", "rttm"] = "json"
    """The format of the answer."""


class SpokenTurnTimes(TypedDict):
    """Somebody speaks. Times are in seconds of the recording."""

    start: float
    end: float
    speaker: str


class DiarizationAnswer(TypedDict):
    """Who speaks when. `duration` is the length of the recording in seconds."""

    duration: float
    segments: list[SpokenTurnTimes]
    usage: DurationUsage


DIARIZATION = Operation(
    id="create_diarization",
    tag="Transcription",
    body=FormBody(DiarizationFields, FORM),
    answers=(
        DescribedAnswer(
            "Who speaks when.",
            (AnswerContent("application/json", DiarizationAnswer), AnswerContent("text/plain", str, "With `rttm`.")),
        ),
    ),
)


@router.post("/v1/audio/diarizations", openapi_extra=DIARIZATION.extra)
async def diarizations(request: Request) -> Response:
    """Says who speaks when in a recording."""
    service = service_of(request)
    return await answer_upload(request, FORM, lambda form: _diarized(form, request, service), service.early)


async def _diarized(form: UploadForm, request: Request, service: Service) -> Response:
    fields = validated(DiarizationFields, form.fields, strict=service.settings.strict)
    task = VoiceActivityTask(form.file.size, await speaker_task(fields, form.long_texts[REFERENCES]))
    tickets: list[SpeechTicket] = await service.analysed(form.file, task, request.headers)
    turns = tickets[-1].turns
    if fields.response_format == "rttm":
        return PlainTextResponse(rttm(turns, RECORDING))
    seconds = round(tickets[-1].until_s, 3)
    segments: list[SpokenTurnTimes] = [
        {"start": round(turn.start_s, 3), "end": round(turn.end_s, 3), "speaker": turn.speaker} for turn in turns
    ]
    answer: DiarizationAnswer = {
        "duration": seconds,
        "segments": segments,
        "usage": {"type": "duration", "seconds": seconds},
    }
    return JSONResponse(answer)
