"""What the sessions of `motet bench live` hear: parts of one recording whose words have known times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from deployments.engines.protocols import SpokenWord
from serve_app.bench.hearing_corpus import CORPUS_RATE, Corpus

Pcm = np.ndarray[Any, np.dtype[np.int16]]
LONGEST_SENTENCE = 150
"""Characters. A turn lasts ten seconds at most."""
MARGIN_S = 0.3
"""Silence before and after an utterance, if the recording has as much."""
LONGEST_GAP_S = 0.25
"""Between two words of an utterance without a pause, so that its turn cannot end within it."""
UTTERANCE_S = (1.5, 5.0)


@dataclass(frozen=True, slots=True)
class LiveRecording:
    """Mono `samples` (n,) at 16 kHz, and the words in them with their times from its start."""

    samples: Pcm
    words: tuple[SpokenWord, ...]

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.samples) / CORPUS_RATE

    @property
    def text(self) -> str:
        """What is said."""
        return " ".join(word.text for word in self.words)

    @property
    def spoken_s(self) -> tuple[float, float]:
        """When the first word begins, and when the last one ends."""
        return self.words[0].start, self.words[-1].end


def dictations(corpus: Corpus, sessions: int, seconds: float) -> list[LiveRecording]:
    """A recording of about `seconds` for each session, from places as far apart as possible, which begin in silences."""
    middles = [sum(silence) / 2 for silence in corpus.silences]
    latest = max(middles[-1] - seconds, middles[0])
    starts = np.linspace(middles[0], latest, sessions) if sessions > 1 else [middles[0]]
    return [_from_silence(corpus, middles, float(start), seconds) for start in starts]


def _from_silence(corpus: Corpus, middles: list[float], start: float, seconds: float) -> LiveRecording:
    begin = min(middles, key=lambda middle: abs(middle - start))
    end = min((middle for middle in middles if middle > begin), key=lambda middle: abs(middle - begin - seconds))
    return part(corpus, begin, end)


def part(corpus: Corpus, start: float, end: float) -> LiveRecording:
    """The recording between two times in seconds."""
    samples = corpus.samples[int(start * CORPUS_RATE) : int(end * CORPUS_RATE)]
    words = tuple(word.later(-start) for word in corpus.words if start <= word.start and word.end <= end)
    return LiveRecording(samples, words)


def utterances(corpus: Corpus) -> Iterator[LiveRecording]:
    """The sentences of 1.5 to 5 s that have no pause within them."""
    for (_, before), (after, _) in pairwise(corpus.silences):
        found = part(corpus, max(before - MARGIN_S, 0.0), after + MARGIN_S)
        if not found.words:
            continue
        begin, end = found.spoken_s
        fits = UTTERANCE_S[0] <= end - begin <= UTTERANCE_S[1]
        if fits and all(later.start - word.end <= LONGEST_GAP_S for word, later in pairwise(found.words)):
            yield found
