"""The guard over a piece of text: a model that does not find its end is stopped, and told why.

Three signs: more sound than so much text can be, tokens that go round in a circle, and silence that does not end, be it of
silent samples or of frames that bring no sound at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from deployments.engines.options import Bounds, EngineOptions
from deployments.engines.protocols import FinishReason, Samples

LONGEST_CIRCLE = 32
"""Tokens: a circle longer than this is not looked for."""


ROUNDING_SECONDS = 1e-6
"""Ten times a tenth of a second is a little less than a second."""


@dataclass(frozen=True, kw_only=True)
class RunawayLimits(EngineOptions):
    """When a piece is ended that has not ended by itself. English is read at about 0.07 s a character."""

    most_seconds_per_character: Annotated[float, Bounds(above=0), "Of sound, for each character of the text."] = 0.3
    most_seconds_besides: Annotated[float, Bounds(above=0), "Of sound, on top of that."] = 6.0
    circling_seconds: Annotated[float, Bounds(above=0), "Tokens may go round in one circle for so long."] = 5.0
    silent_seconds: Annotated[float, Bounds(above=0), "Sound may be silent for so long."] = 5.0
    silent_below: Annotated[float, Bounds(above=0, below=1), "A smaller sample is silent."] = 0.001


class RunawayGuard:
    """Watches one piece. `reason` is "stop" until a limit is passed, and then stays what it has become; `sounded` once any
    sample was loud enough to be heard."""

    def __init__(self, limits: RunawayLimits, text: str, *, rate: float, most: int | None = None) -> None:
        """The model makes `rate` tokens (or frames) for a second of sound, and never more than `most` of them."""
        seconds = limits.most_seconds_besides + limits.most_seconds_per_character * len(text)
        bound = max(1, int(seconds * rate))
        self.most_tokens = bound if most is None else min(bound, most)
        self.reason: FinishReason = "stop"
        self.tokens = 0
        self._limits = limits
        self._patience = max(2, int(limits.circling_seconds * rate))
        self._past = np.full(LONGEST_CIRCLE, -1, np.int64)
        self._agreeing = np.zeros(LONGEST_CIRCLE, np.int64)
        self._seconds_per_frame = 1 / rate
        self._silent_seconds = 0.0
        self.sounded = False

    @property
    def ended(self) -> bool:
        """Whether the piece must end."""
        return self.reason != "stop"

    def token(self, token: int) -> bool:
        """Takes the next token; tells whether the piece must end with it."""
        self._agreeing = np.where(self._past == token, self._agreeing + 1, 0)
        self._past = np.concatenate([[token], self._past[:-1]])
        if self._agreeing.max() >= self._patience:
            self._end("repetition")
        return self.frame()

    def frame(self, *, soundless: bool = False) -> bool:
        """Takes a frame that has no token's name; tells whether the piece must end with it. A `soundless` one will never
        bring samples, and counts as that much silence."""
        self.tokens += 1
        if soundless:
            self._silence(self._seconds_per_frame)
        if self.tokens >= self.most_tokens:
            self._end("length")
        return self.ended

    def sound(self, samples: Samples, sample_rate: int) -> bool:
        """Takes the next samples (n,); tells whether the piece must end with them."""
        loud = np.flatnonzero(np.abs(samples) >= self._limits.silent_below)
        silent = len(samples)
        if len(loud):
            self.sounded, self._silent_seconds = True, 0.0
            silent -= 1 + int(loud[-1])
        self._silence(silent / sample_rate)
        return self.ended

    def over(self) -> FinishReason:
        """Why the piece ended, now that it has: "silence" also where it ended by itself, but nothing of it was heard."""
        if not self.sounded:
            self._end("silence")
        return self.reason

    def _silence(self, seconds: float) -> None:
        self._silent_seconds += seconds
        if self._silent_seconds >= self._limits.silent_seconds - ROUNDING_SECONDS:
            self._end("silence")

    def _end(self, reason: FinishReason) -> None:
        self.reason = self.reason if self.ended else reason
