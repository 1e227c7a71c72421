"""From the speech of a recording to turns: collects embeddings as the speech arrives, clusters them at the end, and finds the
moments at which the speaker changes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deployments.audio.speaker_clustering import Labels, centroids, cluster
from deployments.audio.speaker_embedding import HOP_S, SAMPLE_RATE, SIZE, DVectorEncoder, Embeddings, unit
from deployments.engines.protocols import Samples

MOST_HELD_S = 30.0
"""Samples that are held before they are encoded, in seconds."""
SAME_PLACE_S = 0.005
"""Speech that begins this near to the last end continues it."""
LOUDNESS_S = 0.05
"""The resolution of the loudness with which a change of speaker is placed, in seconds."""

CHANGE_COST = 0.4
"""The evidence, in cosine similarity summed over cells of 0.4 s, that a change of speaker needs amid speech."""
CHANGE_COST_AT_PAUSE = 0.25
"""The evidence that it needs between two sections."""
COHERENT = 0.4
"""Points whose windows are less similar than this are likely to contain two voices, and do not count in the clustering."""
POINT_STEP = 2
"""Every second window is the middle of a point: points every 0.8 s, each of 1.6 s."""


@dataclass(frozen=True, slots=True)
class EmbeddedSpeech:
    """Speech without a pause, in seconds of the recording, and the embeddings of its windows (n, 256). `loudness` is the
    power of every `LOUDNESS_S`."""

    start_s: float
    end_s: float
    windows: Embeddings
    loudness: Samples


@dataclass(frozen=True, slots=True)
class NumberedTurns:
    """Turns as (start, end, voice), in seconds of the recording, and the mean embedding of each voice (voices, 256). Voices
    are numbered in order of appearance."""

    turns: tuple[tuple[float, float, int], ...]
    voices: Embeddings


class SpeechLog:
    """The speech of one recording."""

    def __init__(self, encoder: DVectorEncoder) -> None:
        self._encoder = encoder
        self._sections: list[EmbeddedSpeech] = []
        self._held: list[Samples] = []
        self._held_samples = 0
        self._start_s = 0.0

    def push(self, samples: Samples, start_s: float) -> None:
        """Takes the next speech: mono (n,) at 16 kHz from `start_s` of the recording."""
        if self._held and abs(self._end_s - start_s) > SAME_PLACE_S:
            self._encode()
        if not self._held:
            self._start_s = start_s
        self._held.append(samples)
        self._held_samples += len(samples)
        if self._held_samples >= MOST_HELD_S * SAMPLE_RATE:
            self._encode()

    def turns(self, count: int | None, least: int, most: int) -> NumberedTurns:
        """The turns of all speech, of `count` speakers, or of a number from `least` to `most`."""
        self._encode()
        if not self._sections:
            return NumberedTurns((), np.zeros((0, SIZE), np.float32))
        voices = _voices(self._sections, count, least, most)
        path = _most_likely(self._sections, voices)
        return _numbered(self._sections, path, voices)

    @property
    def _end_s(self) -> float:
        return self._start_s + self._held_samples / SAMPLE_RATE

    def _encode(self) -> None:
        if self._held_samples:
            samples = np.concatenate(self._held)
            windows = self._encoder.windows(samples)
            self._sections.append(EmbeddedSpeech(self._start_s, self._end_s, windows, _loudness(samples)))
        self._held, self._held_samples = [], 0


def _loudness(samples: Samples) -> Samples:
    width = int(LOUDNESS_S * SAMPLE_RATE)
    starts = np.arange(0, max(len(samples), 1), width)
    power: Samples = np.add.reduceat(np.square(samples), starts).astype(np.float32)
    return power


def _voices(sections: list[EmbeddedSpeech], count: int | None, least: int, most: int) -> Embeddings:
    """The mean embedding of each speaker."""
    smooth = [_smoothed(section.windows) for section in sections]
    points = np.concatenate([rows[POINT_STEP // 2 :: POINT_STEP] if len(rows) > 1 else rows for rows, _ in smooth])
    coherence = np.concatenate([c[POINT_STEP // 2 :: POINT_STEP] if len(c) > 1 else c for _, c in smooth])
    usable = coherence >= COHERENT
    if usable.sum() < max(least, 2):
        usable[:] = True
    points = points[usable]
    return centroids(points, cluster(points, count=count, least=least, most=most))


def _smoothed(windows: Embeddings) -> tuple[Embeddings, NDArray[np.float32]]:
    """The unit mean of each window with its two neighbours, and its similarity with them. A window without neighbours is
    coherent only if the section has no other."""
    before, after = np.concatenate([windows[:1], windows[:-1]]), np.concatenate([windows[1:], windows[-1:]])
    coherence = np.einsum("ij,ij->i", before, after)
    return unit(before + windows + after), coherence


def _cells(section: EmbeddedSpeech) -> NDArray[np.float64]:
    """The edges of the section's cells in seconds: 0.4 s each, one more than windows, the last to the section's end."""
    edges = section.start_s + HOP_S * np.arange(len(section.windows) + 2)
    edges[-1] = section.end_s
    inside: NDArray[np.float64] = np.minimum(edges, section.end_s)
    return inside


def _similarities(section: EmbeddedSpeech, voices: Embeddings) -> NDArray[np.float32]:
    """How similar each cell is to each voice, (cells, voices): the mean over the windows that contain the cell."""
    scores = section.windows @ voices.T
    inside: NDArray[np.float32] = np.concatenate([scores[:1], (scores[1:] + scores[:-1]) / 2, scores[-1:]])
    return inside


def _most_likely(sections: list[EmbeddedSpeech], voices: Embeddings) -> list[Labels]:
    """The voice of each cell of each section: the sequence with the greatest similarity after the costs of its changes,
    by the Viterbi algorithm."""
    scores = [_similarities(section, voices) for section in sections]
    total = scores[0][0].astype(np.float64)
    back: list[Labels] = []
    stay = np.arange(len(voices))
    for number, section_scores in enumerate(scores):
        for cell, similarity in enumerate(section_scores):
            if number == cell == 0:
                continue
            cost = CHANGE_COST if cell else _cost_between(sections[number - 1], sections[number])
            best = int(total.argmax())
            change = total[best] - cost > total
            back.append(np.where(change, best, stay))
            total = np.where(change, total[best] - cost, total) + similarity
    states = [int(total.argmax())]
    for previous in reversed(back):
        states.append(int(previous[states[-1]]))
    path = np.array(states[::-1], np.intp)
    return np.split(path, np.cumsum([len(rows) for rows in scores])[:-1])


def _cost_between(before: EmbeddedSpeech, after: EmbeddedSpeech) -> float:
    return CHANGE_COST_AT_PAUSE if after.start_s - before.end_s > SAME_PLACE_S else CHANGE_COST


def _numbered(sections: list[EmbeddedSpeech], path: list[Labels], voices: Embeddings) -> NumberedTurns:
    order = list(dict.fromkeys(int(voice) for part in path for voice in part))
    number = {voice: place for place, voice in enumerate(order)}
    turns = tuple(
        (start_s, end_s, number[voice])
        for section, part in zip(sections, path, strict=True)
        for start_s, end_s, voice in _turns_of(section, part)
        if end_s > start_s
    )
    return NumberedTurns(turns, voices[order])


def _turns_of(section: EmbeddedSpeech, path: Labels) -> Iterator[tuple[float, float, int]]:
    edges = _cells(section)
    changes = np.flatnonzero(np.diff(path)) + 1
    moments = [section.start_s, *(_quietest(section, float(edges[at])) for at in changes), section.end_s]
    for first, start_s, end_s in zip([0, *changes], moments[:-1], moments[1:], strict=True):
        yield start_s, end_s, int(path[first])


def _quietest(section: EmbeddedSpeech, near_s: float) -> float:
    """The middle of the quietest moment within half a cell of a place, in seconds of the recording."""
    middle, reach = (near_s - section.start_s) / LOUDNESS_S, HOP_S / 2 / LOUDNESS_S
    first, last = max(0, round(middle - reach)), min(len(section.loudness), round(middle + reach))
    if last <= first:
        return near_s
    return section.start_s + (first + int(section.loudness[first:last].argmin()) + 0.5) * LOUDNESS_S
