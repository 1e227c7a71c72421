"""Fits spoken phrases to the pauses of a recording. Pure arithmetic on seconds."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.tasks.phrases import Phrase


@dataclass(frozen=True, slots=True)
class PhraseFit:
    """Where a phrase is spoken, from `start_s` to `end_s`, how many times as fast as the voice speaks by itself, and how much
    later than in the recording it begins (`drift_s`)."""

    start_s: float
    end_s: float
    speed: float
    drift_s: float


class PhraseFitter:
    """Places the phrases of one recording, in order, each as early as it may be.

    A phrase begins where it begins in the recording. If it takes longer than the room before the next one, it is spoken
    faster, at most `max_speed` times as fast. What does not fit even so moves the next phrase, which then has less room, so
    that later phrases come back to their places. A phrase that is shorter leaves a longer pause; none is spoken more slowly.
    Between two phrases stays a pause of `min_gap_s`, or that of the recording if it is shorter.
    """

    def __init__(self, max_speed: float, min_gap_s: float) -> None:
        self._max_speed = max_speed
        self._min_gap_s = min_gap_s
        self._free_s = 0.0

    def fit(self, phrase: Phrase, spoken_s: float) -> PhraseFit:
        """The place of the next phrase, which takes `spoken_s` seconds at the voice's own pace."""
        start_s = max(phrase.start_s, self._free_s)
        gap_s = min(self._min_gap_s, phrase.next_s - phrase.end_s)
        room_s = phrase.next_s - gap_s - start_s
        speed = 1.0
        if spoken_s > room_s:
            speed = min(self._max_speed, spoken_s / room_s) if room_s > 0 else self._max_speed
        end_s = start_s + spoken_s / speed
        self._free_s = end_s + gap_s
        return PhraseFit(start_s, end_s, speed, start_s - phrase.start_s)
