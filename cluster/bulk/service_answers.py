"""Reads the answers of a live service, and tells errors of a row from errors of the service."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import httpx

from cluster.bulk.results import Timing, rounded_timing
from deployments.engines.protocols import FinishReason
from deployments.errors import Failure, Kind, MotetError, fail

FIRST_PAUSE_S = 0.5
GO_ON = "Then run the command again to resume."

AWAY = (429, 502, 503, 504)
"""Answers of a service that is busy, is starting, or has no replica. They may change in a moment. So may any 5xx that is
not in Motet's shape: a proxy sent it."""
KINDS: Mapping[int, Kind] = {400: "invalid", 404: "not_found", 408: "timeout", 413: "too_large", 500: "engine"}
"""Status codes of errors that a row causes."""
KINDS_OF_EVENTS: Mapping[str, Kind] = {
    "invalid_request_error": "invalid",
    "rate_limit_error": "overloaded",
    "service_unavailable": "unavailable",
    "timeout_error": "timeout",
}
"""The same for an error event in a streamed answer. Any other type is a failure of the model."""
OF_EVERY_ROW = ("model_not_found", "stem_not_found", "extra_forbidden")
"""Codes of errors that every other row would cause as well. A local job finds them before it begins."""


class ServiceError(MotetError):
    """An error that the row does not cause. Every other row would have it too, so the job ends, and can be resumed."""


class AwayError(ServiceError):
    """A `ServiceError` that may be over soon. The request is repeated after the failure's `retry_after_s`."""


@dataclass(frozen=True, slots=True)
class _ErrorAnswer:
    """The error in an answer. If it is not in Motet's shape, it has no type: the answer came from something else."""

    message: str
    type: str | None = None
    param: str | None = None
    code: str | None = None


def refusal_of(answer: httpx.Response) -> MotetError:
    """The meaning of an error answer: `AwayError`, `ServiceError`, or a `MotetError` of the row."""
    status, error = answer.status_code, _error_in(answer)
    cause = f"The service answered {status}: {error.message}"
    if status in AWAY or (status >= 500 and error.type is None):
        kind: Kind = "overloaded" if status == 429 else "unavailable"
        return AwayError(
            Failure(kind, cause, "Run the command again later to resume.", retry_after_s=_retry_after(answer))
        )
    if status in (401, 403):
        return ServiceError(Failure("unauthorized", cause, f"Set MOTET_API_KEY to a key of that service. {GO_ON}"))
    if error.code in OF_EVERY_ROW:
        return ServiceError(Failure(KINDS.get(status, "invalid"), cause, "", error.param, error.code))
    if _is_of_the_row(status, error):
        return MotetError(Failure(KINDS[status], cause, "", error.param, error.code))
    return ServiceError(Failure("unavailable", cause, f"Check that this is the address of a Motet service. {GO_ON}"))


def _is_of_the_row(status: int, error: _ErrorAnswer) -> bool:
    if status == 404:
        return error.code == "voice_not_found"
    # A proxy before the service may refuse a large body, in its own shape.
    return status == 413 or (status in KINDS and error.type is not None)


def _error_in(answer: httpx.Response) -> _ErrorAnswer:
    try:
        error = answer.json()["error"]
        return _ErrorAnswer(str(error["message"]), str(error["type"]), error.get("param"), error.get("code"))
    except (ValueError, LookupError, TypeError, AttributeError):
        return _ErrorAnswer(answer.text[:200] or answer.reason_phrase)


def _retry_after(answer: httpx.Response) -> float:
    """The seconds of the header Retry-After, or a short pause if they cannot be read."""
    try:
        asked_s = float(answer.headers.get("Retry-After", FIRST_PAUSE_S))
    except ValueError:
        return FIRST_PAUSE_S
    return max(asked_s, FIRST_PAUSE_S) if math.isfinite(asked_s) else FIRST_PAUSE_S


def not_asked_for(answer: httpx.Response, why: str) -> ServiceError:
    """The error for a successful answer with unexpected contents."""
    kind = answer.headers.get("content-type", "no content type")
    cause = f"{answer.url} is not a Motet service, or has another version: it sent {kind} ({why})."
    return ServiceError(Failure("unavailable", cause, f"Check that this is the address of a Motet service. {GO_ON}"))


# --- Speech


@dataclass(frozen=True, slots=True)
class SpeechAnswer:
    """A spoken row: the sound, its seconds, where each piece of the text begins, its words if they were asked for, why the
    model ended, the voice, and the rate of the sound in Hz."""

    audio: bytes
    seconds: float
    pieces: Sequence[Mapping[str, Any]]
    words: Sequence[Timing]
    finish_reason: FinishReason
    voice: str | None
    sample_rate: int | None
    quality: Mapping[str, Any] | None

    def timings(self, seconds: float) -> tuple[Timing, ...]:
        """When each piece is spoken. The last one ends with the sound."""
        starts = [float(piece["start_seconds"]) for piece in self.pieces]
        ends = [*starts[1:], seconds]
        times = zip(starts, ends, self.pieces, strict=True)
        return tuple(Timing(start, end, piece["text"]) for start, end, piece in times)


def speech_answer(answer: httpx.Response) -> SpeechAnswer:
    """Reads an answer of speech events. Raises `MotetError` if it was interrupted, and ValueError if it has no events."""
    lines = answer.content.decode().split("\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    if not events:
        raise ValueError("no events")
    done = events[-1]
    if done["type"] != "speech.audio.done":
        raise _broken_off(done)
    rate = answer.headers.get("x-sample-rate")
    return SpeechAnswer(
        audio=b"".join(base64.b64decode(event.get("audio", "")) for event in events),
        seconds=float(done["usage"]["audio_seconds"]),
        pieces=[piece for event in events for piece in event.get("pieces", ())],
        words=[
            rounded_timing(word["start"], word["end"], word["text"])
            for event in events
            for word in event.get("words", ())
        ],
        finish_reason=cast(FinishReason, done["finish_reason"]),
        voice=answer.headers.get("x-motet-voice"),
        sample_rate=None if rate is None else int(rate),
        quality=_quality(events),
    )


def _quality(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """What the service found in the pieces, and what it heard; None if it did not check them."""
    found = events[-1].get("quality")
    heard = [event["heard"] for event in events if event["type"] == "speech.audio.quality" and "heard" in event]
    return None if found is None else {**found, "heard": " ".join(heard) if heard else None}


def _broken_off(last: Mapping[str, Any]) -> MotetError:
    error = last.get("error", {"message": "its last event is missing"})
    cause = f"The service ended the answer early: {error.get('message')}"
    kind = KINDS_OF_EVENTS.get(error.get("type", ""), "engine")
    if kind == "overloaded":
        return AwayError(Failure(kind, cause, "Run the command again later: it goes on.", retry_after_s=FIRST_PAUSE_S))
    return fail(kind, cause, param=error.get("param"), code=error.get("code"))
