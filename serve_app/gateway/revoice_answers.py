"""What the events of a recording in another voice are made of. `/openapi.json` describes them. Times are in seconds."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from deployments.settings import documented


@documented
class RevoicedPhraseEvent(TypedDict):
    """A phrase, before the sound in which it begins."""

    type: Literal["revoice.phrase"]
    index: int
    speaker: NotRequired[str]
    """With `speaker_voices`: who speaks."""
    text: str
    start: float
    """In the recording."""
    end: float
    """In the recording."""
    spoken: bool
    """False for a phrase that the voice cannot say, and that is silent."""
    spoken_start: float
    """In the answer."""
    spoken_end: float
    """In the answer."""
    speed: float
    """Times as fast as the voice speaks by itself."""
    drift: float
    """How much later than in the recording it begins."""


@documented
class RevoiceDelta(TypedDict):
    """More sound."""

    type: Literal["revoice.audio.delta"]
    audio: str
    """The next bytes in base64."""


@documented
class RevoiceDone(TypedDict):
    """The last event."""

    type: Literal["revoice.audio.done"]
    duration: float
    """The length of the answer."""
    recording_duration: float
    phrases: int
    unspoken_phrases: int
    max_speed: float
    """Of all phrases."""
    max_drift: float
    """Of all phrases."""
    timing: dict[str, float]
    """Where the time went, in ms, as in the header `Server-Timing`."""
