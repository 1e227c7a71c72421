"""POST /v1/audio/speech: a text in, sound out, streamed as it is made."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from deployments.audio.formats import FORMATS
from deployments.tasks.speech import predicted_seconds
from serve_app.gateway.bodies.json_bodies import read_json
from serve_app.gateway.request_context import current_request
from serve_app.gateway.service import service_of
from serve_app.gateway.speech.fields import SpeechFields
from serve_app.gateway.speech.plan import SpeechPlan
from serve_app.gateway.speech.resume import resume_point
from serve_app.gateway.speech.stream import SpeechStream
from serve_app.gateway.streaming import event_stream, stream_of

router = APIRouter()


class SpeechBody(SpeechFields):
    """The body of a speech request: the text, who speaks it, and how its sound is sent."""

    input: str
    stream_format: Literal["audio", "sse"] = "audio"


SCHEMA = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": SpeechBody.model_json_schema()}}}
}


@router.post("/v1/audio/speech", openapi_extra=SCHEMA)
async def speech(request: Request) -> Response:
    """Speaks a text."""
    service = service_of(request)
    body = await read_json(SpeechBody, request, strict=service.settings.strict)
    plan = await service.planner.plan_whole(body, body.input, service.owner(request.headers))
    current_request().ignore(plan.ignored)
    last_event_id = request.headers.get("last-event-id") if body.stream_format == "sse" else None
    resume = resume_point(last_event_id, plan)
    ticket = service.admit(plan.model, request.headers, predicted_seconds(plan.request))
    try:
        stream = SpeechStream(plan, service.directory, service.cache, ticket, service.recorder, resume)
        if body.stream_format == "sse":
            return await event_stream(stream.events(), _headers(plan))
        answer = await stream_of(stream.encoded(), FORMATS[plan.audio_format].media_type, _headers(plan))
    except BaseException:
        ticket.close()
        raise
    answer.headers["server-timing"] = stream.timeline.server_timing()
    late = {"x-motet-placement": stream.placement, "x-motet-finish-reason": stream.finish_reason}
    answer.headers.update({name: value for name, value in late.items() if value})
    return answer


def _headers(plan: SpeechPlan) -> dict[str, str]:
    return {
        "x-sample-rate": str(plan.traits.sample_rate),
        "x-motet-model": plan.model,
        "x-motet-voice": plan.request.voice,
    }
