"""Which words of a text as it is written belong to which words as they are spoken: "$5 now" and "five dollars now".

Words are what lies between spaces. Words that are alike on both sides pair with each other, and what lies between two pairs
belongs together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import accumulate

from deployments.text.phonemes import without_pronunciations

_NO_LETTER = re.compile(r"[\W_]+")
DIGIT_LETTERS = 4
"""A digit is spoken as a word of about this many letters."""

Times = tuple[float, float]
"""Start and end, in seconds."""


def words_in(text: str) -> list[str]:
    """The words of a text. A word with its pronunciation (`phonemes.py`) counts as the word alone."""
    return without_pronunciations(text).split()


class WordMapping:
    """Gives the words of a text their times, from the times of its words as they are spoken.

    A written word of which nothing is spoken, such as a dash, lasts no time. A word of which part of another one is spoken
    gets a part of its time, by its length.
    """

    def __init__(self, spoken: Sequence[str], written: Sequence[str]) -> None:
        self._places = _places(spoken, written)
        self._times: list[Times] = []
        self._given = 0

    def add(self, times: Sequence[Times]) -> list[Times]:
        """Takes the times of the next spoken words; returns those of the next written words, as far as they are known."""
        self._times += times
        ready = list[Times]()
        while self._given < len(self._places) and self._places[self._given][1] <= len(self._times):
            ready.append(self._between(*self._places[self._given]))
            self._given += 1
        return ready

    def _between(self, first: float, last: float) -> Times:
        if first == last:
            end = self._at(first, ends=True) if first else 0.0
            return end, end
        return self._at(first), self._at(last, ends=True)

    def _at(self, place: float, *, ends: bool = False) -> float:
        """The time at a place, counted in spoken words; where two words meet, the end of the first or the start of the
        second."""
        word, share = int(place), place % 1
        if ends and share == 0:
            return self._times[word - 1][1]
        start, end = self._times[word]
        return start + share * (end - start)


def _places(spoken: Sequence[str], written: Sequence[str]) -> list[tuple[float, float]]:
    """Where each written word begins and ends, counted in spoken words. A word that is not spoken lies at the end of the one
    before it. Spoken words that belong to none, such as the "dollars" of "$5 million", belong to the one before them."""
    starts = _starts(spoken, written)
    ends = dict(zip(starts, [*list(starts.values())[1:], float(len(spoken))], strict=False))
    places, reached = list[tuple[float, float]](), 0.0
    for at in range(len(written)):
        places.append((reached, ends.get(at, reached)))
        reached = places[-1][1]
    return places


def _starts(spoken: Sequence[str], written: Sequence[str]) -> dict[int, float]:
    """Where the written words begin of which something is spoken, in order."""
    if list(spoken) == list(written):
        return {at: float(at) for at in range(len(written))}
    heard = [at for at, word in enumerate(spoken) if _key(word)]
    shown = [at for at, word in enumerate(written) if _key(word)]
    starts = dict[int, float]()
    for said, seen in _blocks([_key(spoken[at]) for at in heard], [_key(written[at]) for at in shown]):
        says, sees = heard[said], shown[seen]
        shares = _shared([spoken[at] for at in says], [written[at] for at in sees])
        starts |= {at: says[int(place)] + place % 1 for at, place in zip(sees, shares, strict=True)}
    return starts


def _blocks(said: Sequence[str], seen: Sequence[str]) -> Iterator[tuple[slice, slice]]:
    """Runs of spoken and of written words that belong together, in order."""
    for kind, a, b, c, d in SequenceMatcher(None, said, seen, autojunk=False).get_opcodes():
        if kind == "equal" or b - a == d - c:
            yield from ((slice(a + at, a + at + 1), slice(c + at, c + at + 1)) for at in range(b - a))
        elif kind == "replace":
            yield slice(a, b), slice(c, d)


def _shared(spoken: Sequence[str], written: Sequence[str]) -> list[float]:
    """Where written words begin in a run of spoken ones, by their lengths."""
    borders = [0.0, *accumulate(map(_length, spoken))]
    shares = list(accumulate(map(_length, written)))
    return [0.0, *(_place(borders, share / shares[-1] * borders[-1]) for share in shares[:-1])]


def _place(borders: Sequence[float], length: float) -> float:
    """The place at a length, counted in words that end at these borders."""
    word = next(at for at in range(1, len(borders)) if length < borders[at])
    return word - 1 + (length - borders[word - 1]) / (borders[word] - borders[word - 1])


def _length(word: str) -> int:
    return sum(DIGIT_LETTERS if letter.isdigit() else 1 for letter in word)


def _key(word: str) -> str:
    """What decides whether two words are alike: letters and digits."""
    return _NO_LETTER.sub("", word.casefold())
