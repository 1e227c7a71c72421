"""The words of a text with the times at which they are spoken, on the way from an engine to a reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from deployments.engines.protocols import AudioChunk, Samples, SpokenWord
from deployments.text.piece import Piece
from deployments.text.word_mapping import WordMapping, words_in

FindWords = Callable[[int, Samples, int], Sequence[SpokenWord]]
"""Finds the words of the piece with a number in its sound: mono samples (n,) at a rate in Hz. Their times are from its
start."""


class WrittenWords:
    """Turns the words that a model speaks into those that are written. It follows one text, chunk by chunk."""

    def __init__(self) -> None:
        self._index = -1
        self._mapping = WordMapping((), ())
        self._given = 0
        self._written: list[str] = []

    def of(self, chunk: AudioChunk, piece: Piece, tempo: float) -> tuple[SpokenWord, ...]:
        """The written words of a piece that are known with a chunk, in seconds of its sound at a tempo. A word that the model
        reads differently has the time of all that is read of it."""
        if chunk.index != self._index:
            self._index, self._given, self._written = chunk.index, 0, words_in(piece.text)
            self._mapping = WordMapping(words_in(piece.spoken), self._written)
        times = self._mapping.add([(word.start / tempo, word.end / tempo) for word in chunk.words])
        texts = self._written[self._given : self._given + len(times)]
        self._given += len(times)
        return tuple(SpokenWord(text, start, end) for text, (start, end) in zip(texts, times, strict=True))


class WordRecorder:
    """The words of a whole sound, with times from its start, for a reader of `speak` that keeps all of it. `find` finds those
    of a piece whose model does not know them."""

    def __init__(self, find: FindWords | None = None) -> None:
        self.words: list[SpokenWord] = []
        self.seconds = 0.0
        """The sound so far."""
        self._find = find
        self._piece: list[Samples] = []
        self._began_s = 0.0
        self._index = -1

    def add(self, chunk: AudioChunk) -> None:
        """Takes the next chunk of the sound."""
        if chunk.index != self._index:
            self._index, self._began_s, self._piece = chunk.index, self.seconds, []
        self.seconds += chunk.seconds
        self._add(chunk.words)
        if self._find is not None:
            self._piece.append(chunk.samples)
            if chunk.piece_over and any(map(len, self._piece)):
                self._add(self._find(chunk.index, np.concatenate(self._piece), chunk.sample_rate))

    def _add(self, words: Sequence[SpokenWord]) -> None:
        self.words += (word.later(self._began_s) for word in words)
