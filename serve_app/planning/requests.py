"""A request of a simulated client, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.tasks.speech import CHARACTERS_PER_SECOND


@dataclass(frozen=True, slots=True)
class PlannedText:
    """A request: its model, its length, how it is paced, and who asks. `characters_per_second` is the model's real pace."""

    model: str
    characters: float
    characters_per_second: float
    played: bool = False
    key: str | None = None
    max_wait_s: float | None = None

    @property
    def predicted_seconds(self) -> float:
        """The service's prediction of its sound, in seconds."""
        return self.characters / CHARACTERS_PER_SECOND

    @property
    def seconds(self) -> float:
        """Its sound, in seconds."""
        return self.characters / self.characters_per_second


@dataclass(frozen=True, slots=True)
class SpeechOutcome:
    """What became of a request. Times are in seconds from when it was due; `first_s` is None without sound."""

    text: PlannedText
    status: str
    """complete, refused, or failed."""
    first_s: float | None = None
    underruns: int = 0
    audio_seconds: float = 0.0
    retry_after_s: float = 0.0
    plays_for_s: float = 0.0
    """How long the listener plays on."""
