"""What the events of separations and enhancements are made of. `/openapi.json` describes them."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from deployments.settings import documented


@documented
class GapFacts(TypedDict):
    """A part of the recording that could not be separated, and is silent. Times are in seconds."""

    start: float
    end: float


@documented
class ProgressFacts(TypedDict):
    """How far a separation is."""

    chunks: int
    seconds: float
    """Of the recording, so far."""
    expected_seconds: float
    """The length of the recording, as far as its file tells."""
    remaining_seconds: float | None
    """How long the rest will take."""


@documented
class SeparationDelta(TypedDict):
    """More sound of a stem."""

    type: Literal["separation.audio.delta"]
    stem: str
    audio: str
    """The next bytes of the stem in base64."""


class SeparationEnd(TypedDict):
    """The last event, with the stems in order."""

    type: Literal["separation.audio.done"]
    stems: list[str]


class SeparationGap(GapFacts):
    """A part of the recording that could not be separated, and is silent."""

    type: Literal["separation.gap"]


class SeparationProgressEvent(ProgressFacts):
    """How far the separation is."""

    type: Literal["separation.progress"]


SeparationEvent = SeparationDelta | SeparationGap | SeparationProgressEvent | SeparationEnd


@documented
class EnhancementDelta(TypedDict):
    """More sound."""

    type: Literal["enhancement.audio.delta"]
    audio: str
    """The next bytes in base64."""


class EnhancementEnd(TypedDict):
    """The last event."""

    type: Literal["enhancement.audio.done"]


class EnhancementGap(GapFacts):
    """A part of the recording that could not be enhanced, and is silent."""

    type: Literal["enhancement.gap"]


class EnhancementProgress(ProgressFacts):
    """How far the enhancement is."""

    type: Literal["enhancement.progress"]


EnhancementEvent = EnhancementDelta | EnhancementGap | EnhancementProgress | EnhancementEnd
