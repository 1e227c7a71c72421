"""Joins the pieces of one sentence without the silence that a model puts around each of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from deployments.engines.protocols import AudioChunk, Samples

SILENT_BELOW = 0.005
KEPT_S = 0.04
"""Silence that stays on either side of a join."""


class SentenceJoins:
    """Cuts the silence at the joins of a text, chunk by chunk, in the model's own time."""

    def __init__(self) -> None:
        self._index = -1
        self._follows = self._goes_on = False
        self._sounded = True
        self._cut_s = 0.0

    def joined(self, chunk: AudioChunk, *, goes_on: bool) -> AudioChunk:
        """The chunk without silence where its piece `goes_on` in the next one, or the one before it did in this. The words
        begin as much earlier."""
        if chunk.index != self._index:
            self._index, self._follows, self._goes_on = chunk.index, self._goes_on, goes_on
            self._sounded, self._cut_s = not self._follows, 0.0
        samples = chunk.samples
        if not self._sounded:
            samples = self._without_start(samples, chunk.sample_rate)
        if goes_on and chunk.piece_over:
            samples = samples[: len(samples) - _silence(samples[::-1], chunk.sample_rate)]
        if samples is chunk.samples and not self._cut_s:
            return chunk
        return replace(chunk, samples=samples, words=tuple(word.later(-self._cut_s) for word in chunk.words))

    def _without_start(self, samples: Samples, sample_rate: int) -> Samples:
        cut = _silence(samples, sample_rate)
        self._cut_s += cut / sample_rate
        self._sounded = cut < len(samples)
        return samples[cut:]


def _silence(samples: Samples, sample_rate: int) -> int:
    """How many samples of silence begin a sound, without those that stay; all of a sound that is silent."""
    loud = np.flatnonzero(np.abs(samples) >= SILENT_BELOW)
    return max(0, int(loud[0]) - round(KEPT_S * sample_rate)) if len(loud) else len(samples)
