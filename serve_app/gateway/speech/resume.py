"""How far a client has come that reconnects, and the event ids that say so."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deployments.errors import fail
from serve_app.gateway.speech.plan import SpeechPlan
from serve_app.gateway.speech.source_map import SourcePosition

MAX_DIGITS = 18
"""Of a number in an event id. The service writes no longer ones."""
_NUMBER = rf"(\d{{1,{MAX_DIGITS}}})"
_IN_BYTES = re.compile(rf"{_NUMBER}b{_NUMBER}", re.ASCII)
_IN_SPEECH = re.compile(rf"(?:{_NUMBER}f)?{_NUMBER}\.{_NUMBER}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a stream goes on for a client that reconnects.

    A stream without trouble can be made again: the client has its first `bytes`, and with them its first `samples`. A stream
    with gaps or a fallback voice cannot: there the client has the speech up to a `position`.
    """

    bytes: int = 0
    samples: int = 0
    position: SourcePosition | None = None

    def event_id(self, key: str) -> str:
        """The id of the last event that a client has at this point, for the stream with that key."""
        if self.position is None:
            return f"{key}-{self.bytes}b{self.samples}"
        position = self.position
        fallback = "" if position.fallback_from is None else f"{position.fallback_from}f"
        return f"{key}-{fallback}{position.piece}.{position.sample}"


START = ResumePoint()


def resume_point(last_event_id: str | None, plan: SpeechPlan) -> ResumePoint:
    """Where the stream of a plan goes on after the client's last event.

    Raises `MotetError`: (invalid) for the id of another stream, (unavailable) if the fallback voice would go on and does not
    answer.
    """
    if not last_event_id:
        return START
    stream, _, place = last_event_id.partition("-")
    point = _parsed(place) if stream == plan.key else None
    if point is None or not _lies_in(point.position, len(plan.text.pieces)):
        raise fail(
            "invalid",
            "Last-Event-ID does not belong to this request.",
            "Send the same request as before, or leave the header out to start again.",
            param="Last-Event-ID",
            code="event_id_mismatch",
        )
    if point.position is not None and point.position.fallback_from is not None and plan.fallback is None:
        raise fail(
            "unavailable",
            "A fallback voice had taken over, and it does not answer now.",
            "Try again in a moment with the same pacing, or leave Last-Event-ID out to start again.",
        )
    return point


def _parsed(place: str) -> ResumePoint | None:
    if in_bytes := _IN_BYTES.fullmatch(place):
        return ResumePoint(bytes=int(in_bytes[1]), samples=int(in_bytes[2]))
    if in_speech := _IN_SPEECH.fullmatch(place):
        first, piece, sample = in_speech.groups()
        return ResumePoint(position=SourcePosition(int(piece), int(sample), None if first is None else int(first)))
    return None


def _lies_in(position: SourcePosition | None, pieces: int) -> bool:
    return position is None or (position.fallback_from or 0) <= position.piece < pieces
