"""POST /v1/audio/speech: a text in, sound out, streamed as it is made."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from deployments.audio.formats import FORMATS
from deployments.errors import fail
from serve_app.gateway.bodies.json_bodies import read_json
from serve_app.gateway.description.operation import DescribedAnswer, JsonBody, Operation, events_content, sounds
from serve_app.gateway.errors import ErrorEvent
from serve_app.gateway.request_context import current_request
from serve_app.gateway.service import service_of
from serve_app.gateway.speech.answers import SpeechEvent
from serve_app.gateway.speech.fields import SpeechFields
from serve_app.gateway.speech.plan import SpeechPlan
from serve_app.gateway.speech.resume import resume_point
from serve_app.gateway.speech.stream import SpeechStream
from serve_app.gateway.streaming import event_stream, stream_of

router = APIRouter()


class SpeechBody(SpeechFields):
    """The body of a speech request: the text, who speaks it, and how its sound is sent."""

    input: str
    """The text, or a document in SSML."""
    stream_format: Literal["audio", "sse"] = "audio"
    """Whether the answer is the sound itself, or server-sent events with sound and what is known about it."""


SPEECH = Operation(
    id="create_speech",
    tag="Speech",
    body=JsonBody(SpeechBody),
    headers=("Last-Event-ID",),
    answers=(
        DescribedAnswer(
            "The sound, streamed as it is made; with `stream_format: sse`, events.",
            (*sounds(FORMATS), events_content(SpeechEvent | ErrorEvent)),
            headers=(
                *("x-sample-rate", "x-motet-model", "x-motet-voice"),
                *("x-motet-placement", "x-motet-finish-reason", "x-motet-unread-scripts", "server-timing"),
            ),
        ),
    ),
    example={"model": "tts-1", "voice": "alloy", "input": "Hello there.", "response_format": "wav"},
    output="hello.wav",
)


@router.post("/v1/audio/speech", openapi_extra=SPEECH.extra)
async def speech(request: Request) -> Response:
    """Speaks a text.

    A client that lost its connection sends the same request with `Last-Event-ID`, and gets the rest of the events.
    """
    service = service_of(request)
    body = await read_json(SpeechBody, request, strict=service.settings.strict)
    if body.word_timestamps and body.stream_format != "sse":
        cause = "A file of sound has no place for the times of words."
        remedy = "Send stream_format 'sse', or leave word_timestamps out."
        raise fail("invalid", cause, remedy, param="word_timestamps", code="word_timestamps_need_events")
    plan = await service.planner.plan_whole(body, body.input, service.owner(request.headers))
    current_request().ignore(plan.ignored)
    last_event_id = request.headers.get("last-event-id") if body.stream_format == "sse" else None
    resume = resume_point(last_event_id, plan)
    ticket = service.admit(plan.model, request.headers, plan.predicted_seconds)
    try:
        stream = SpeechStream(plan, service.directory, service.cache, ticket, service.recorder, resume)
        if body.stream_format == "sse":
            return await event_stream(stream.events(), _headers(plan))
        most = _most_seconds_before_the_first_byte(plan, service.settings.speech.whole_flac_seconds_of_audio)
        encoded = stream.encoded(whole_seconds=most)
        answer = await stream_of(encoded, FORMATS[plan.audio_format].media_type, _headers(plan))
    except BaseException:
        ticket.close()
        raise
    answer.headers["server-timing"] = stream.timing.server_timing()
    late = {"x-motet-placement": stream.placement, "x-motet-finish-reason": stream.finish_reason}
    answer.headers.update({name: value for name, value in late.items() if value})
    return answer


def _most_seconds_before_the_first_byte(plan: SpeechPlan, whole_flac_seconds: float) -> float:
    """How much sound is made before the answer begins, so that a short FLAC has its length in its header. Predictions may be
    wrong by a half."""
    short = plan.audio_format == "flac" and not plan.played and plan.predicted_seconds <= whole_flac_seconds
    return 2 * whole_flac_seconds if short else 0.0


def _headers(plan: SpeechPlan) -> dict[str, str]:
    return {
        "x-sample-rate": str(plan.encoded_rate),
        "x-motet-model": plan.model,
        "x-motet-voice": plan.request.voice,
        **({"x-motet-unread-scripts": plan.unread_scripts} if plan.unread_scripts else {}),
    }
