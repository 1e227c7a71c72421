"""When a model speaks each word, from the durations that it predicts for its phonemes.

A phonemizer makes lines of phonemes of a piece of text. It reads some words in its own way, "5 km" as "five kilometers", so
the words that it reads are mapped to those of the piece (`text/word_mapping.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from deployments.engines.protocols import Samples, SpokenWord
from deployments.text.word_mapping import Times, WordMapping, words_in

SPACE = -1
QUIETEST = 0.02
"""Of the loudest 10 ms of a line: what is quieter at the ends of a word is silence."""
LOUDNESS_S = 0.01


@dataclass(frozen=True, slots=True)
class PhonemeLine:
    """Phonemes that a model speaks at once, one a character. `words` has the number of each phoneme's word among the words of
    the text, or `SPACE`; it is empty if the phonemizer does not say."""

    phonemes: str
    words: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PhonemeText:
    """A text in lines of phonemes, and its words as the phonemizer reads them; none if it does not say."""

    lines: tuple[PhonemeLine, ...]
    words: tuple[str, ...] = ()


class ReadToken(Protocol):
    """A token of a phonemizer of misaki's kind. `whitespace` is what follows it."""

    text: str
    phonemes: str | None
    whitespace: str


def text_of_tokens(sentences: Iterable[Iterable[ReadToken]]) -> PhonemeText:
    """The text of tokens, one line a sentence with phonemes. A word ends where whitespace follows a token."""
    words, lines = list[str](), list[PhonemeLine]()
    for tokens in sentences:
        phonemes, numbers, begins = "", list[int](), True
        for token in tokens:
            if begins:
                words.append("")
            words[-1] += token.text
            said = (token.phonemes or "") + (" " if token.whitespace else "")
            phonemes, numbers = phonemes + said, [*numbers, *[len(words) - 1] * len(said)]
            begins = bool(token.whitespace)
        if phonemes.strip():
            lines += cut_line(PhonemeLine(phonemes, tuple(numbers)), [phonemes.strip()])
    return PhonemeText(tuple(lines), tuple(words))


def in_one_line(text: PhonemeText) -> PhonemeText:
    """The text with spaces between its lines."""
    words = tuple(word for line in text.lines for word in (*line.words, SPACE))[:-1]
    line = PhonemeLine(" ".join(line.phonemes for line in text.lines), words)
    return PhonemeText((line,) if text.lines else (), text.words)


def cut_line(line: PhonemeLine, parts: Iterable[str]) -> Iterator[PhonemeLine]:
    """The line in these parts, which together have its phonemes in order, with any spaces between them."""
    if not line.words:
        yield from map(PhonemeLine, parts)
        return
    numbers = (word for phoneme, word in zip(line.phonemes, line.words, strict=True) if not phoneme.isspace())
    for part in parts:
        yield PhonemeLine(part, tuple(SPACE if phoneme.isspace() else next(numbers) for phoneme in part))


class PieceWords:
    """The words of a piece, with their times as its lines are spoken. It holds the state of one piece."""

    def __init__(self, piece: str, read: Sequence[str], sample_rate: int) -> None:
        self._texts = iter(words_in(piece) if read else ())
        self._mapping = WordMapping(read, words_in(piece))
        self._read = len(read)
        self._rate = sample_rate
        self._passed_s = self._reached_s = 0.0
        self._timed = 0

    def spoken(self, line: PhonemeLine, ends_s: Sequence[float], samples: Samples, *, last: bool) -> list[SpokenWord]:
        """The words of the piece that are known with its next line, in seconds of the piece.

        `ends_s` is where each of the line's phonemes ends, in seconds from the start of its mono samples (n,), after where
        the first one starts: one number more than phonemes.
        """
        if not self._read:
            return []
        until = self._read if last else max(self._timed, 1 + max(line.words, default=SPACE))
        times = list(self._times(_spans(line, ends_s), _Loudness(samples, self._rate), until))
        self._passed_s += len(samples) / self._rate
        self._timed = until
        return [SpokenWord(next(self._texts), start, end) for start, end in self._mapping.add(times)]

    def _times(self, spans: dict[int, Times], loudness: _Loudness, until: int) -> Iterator[Times]:
        for number in range(self._timed, until):
            if number in spans:
                start, end = loudness.without_silence(*spans[number])
                begins_s = max(self._reached_s, start + self._passed_s)
                self._reached_s = max(begins_s, end + self._passed_s)
                yield begins_s, self._reached_s
            else:
                yield self._reached_s, self._reached_s


def _spans(line: PhonemeLine, ends_s: Sequence[float]) -> dict[int, Times]:
    """Start and end of each word of a line, from its first to its last sound. Marks have no sound. A space between two words
    takes time although the voice does not pause there: half of it belongs to either."""
    spans, phonemes = dict[int, Times](), f" {line.phonemes} "
    middles_s = [(start + end) / 2 for start, end in pairwise(ends_s)]
    for at, word in enumerate(line.words):
        before, phoneme, after = tuple(phonemes[at : at + 3])
        if phoneme.isalpha() or phoneme in "ˈˌː":
            start = middles_s[at - 1] if before == " " and at else ends_s[at]
            end = middles_s[at + 1] if after == " " and at + 1 < len(middles_s) else ends_s[at + 1]
            spans[word] = spans.get(word, (start, end))[0], end
    return spans


class _Loudness:
    """The loudness of a line, every 10 ms. A model counts a pause as part of the sound before it: the last sound of a
    sentence would last 0.3 s longer than it is heard."""

    def __init__(self, samples: Samples, sample_rate: int) -> None:
        frame = round(LOUDNESS_S * sample_rate)
        frames = samples[: len(samples) // frame * frame].reshape(-1, frame)
        loudness = np.sqrt(np.mean(np.square(frames), axis=1))
        self._loud = loudness > QUIETEST * loudness.max(initial=0.0)
        self._seconds = len(samples) / sample_rate

    def without_silence(self, start: float, end: float) -> Times:
        """The span without the silence at its ends, within the line."""
        start, end = (min(max(edge, 0.0), self._seconds) for edge in (start, end))
        first, last = round(start / LOUDNESS_S), round(end / LOUDNESS_S)
        loud = np.flatnonzero(self._loud[first:last])
        if not len(loud):
            return start, end
        return max(start, (first + int(loud[0])) * LOUDNESS_S), min(end, (first + int(loud[-1]) + 1) * LOUDNESS_S)
