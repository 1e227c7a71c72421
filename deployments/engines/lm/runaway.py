"""The guard against runaway generation: a model that does not end a piece of text is stopped, with the reason.

There are three signs: more audio than the text can have, tokens that repeat in a cycle, and silence that does not end.
Silence is silent samples, or frames without audio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from deployments.engines.options import Bounds, EngineOptions
from deployments.engines.protocols import FinishReason, Samples

LONGEST_CYCLE = 32
"""Tokens: longer cycles are not detected."""


ROUNDING_SECONDS = 1e-6
"""Tolerance of a sum of durations: ten times 0.1 s is slightly less than 1 s in floating point."""


@dataclass(frozen=True, kw_only=True)
class RunawayLimits(EngineOptions):
    """The limits of a piece that does not end by itself. English takes about 0.07 s a character."""

    most_seconds_per_character: Annotated[
        float, Bounds(above=0), "Seconds of audio for each character of the text."
    ] = 0.3
    most_seconds_besides: Annotated[float, Bounds(above=0), "Seconds of audio in addition."] = 6.0
    circling_seconds: Annotated[float, Bounds(above=0), "Tokens may repeat in one cycle for this long."] = 5.0
    silent_seconds: Annotated[float, Bounds(above=0), "Audio may be silent for this long."] = 5.0
    silent_below: Annotated[float, Bounds(above=0, below=1), "A smaller sample counts as silent."] = 0.001


class RunawayGuard:
    """Watches one piece. `reason` is "stop" until a limit is passed, and then does not change any more; `sounded` is True
    once a sample was above the silence level."""

    def __init__(self, limits: RunawayLimits, text: str, *, rate: float, most: int | None = None) -> None:
        """The model generates `rate` tokens (or frames) for a second of audio, and at most `most` for a piece."""
        seconds = limits.most_seconds_besides + limits.most_seconds_per_character * len(text)
        bound = max(1, int(seconds * rate))
        self.most_tokens = bound if most is None else min(bound, most)
        self.reason: FinishReason = "stop"
        self.tokens = 0
        self._limits = limits
        self._patience = max(2, int(limits.circling_seconds * rate))
        self._past = np.full(LONGEST_CYCLE, -1, np.int64)
        self._agreeing = np.zeros(LONGEST_CYCLE, np.int64)
        self._seconds_per_frame = 1 / rate
        self._silent_seconds = 0.0
        self.sounded = False

    @property
    def ended(self) -> bool:
        """Whether the piece must end."""
        return self.reason != "stop"

    def token(self, token: int) -> bool:
        """Takes the next token; returns whether the piece must end with it."""
        self._agreeing = np.where(self._past == token, self._agreeing + 1, 0)
        self._past = np.concatenate([[token], self._past[:-1]])
        if self._agreeing.max() >= self._patience:
            self._end("repetition")
        return self.frame()

    def frame(self, *, soundless: bool = False) -> bool:
        """Takes a frame without a token; returns whether the piece must end with it. A `soundless` frame gives no samples,
        and counts as silence of its duration."""
        self.tokens += 1
        if soundless:
            self._silence(self._seconds_per_frame)
        if self.tokens >= self.most_tokens:
            self._end("length")
        return self.ended

    def sound(self, samples: Samples, sample_rate: int) -> bool:
        """Takes the next samples (n,); returns whether the piece must end with them."""
        loud = np.flatnonzero(np.abs(samples) >= self._limits.silent_below)
        silent = len(samples)
        if len(loud):
            self.sounded, self._silent_seconds = True, 0.0
            silent -= 1 + int(loud[-1])
        self._silence(silent / sample_rate)
        return self.ended

    def final_reason(self) -> FinishReason:
        """Why the piece ended. A piece that ended by itself without any audible sample gives "silence"."""
        if not self.sounded:
            self._end("silence")
        return self.reason

    def _silence(self, seconds: float) -> None:
        self._silent_seconds += seconds
        if self._silent_seconds >= self._limits.silent_seconds - ROUNDING_SECONDS:
            self._end("silence")

    def _end(self, reason: FinishReason) -> None:
        self.reason = self.reason if self.ended else reason
