"""Words that a voice would misread, and how to say them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import StringConstraints

from deployments.errors import fail, quoted
from deployments.text.phonemes import pronounced
from deployments.text.spoken import FixedReading

LexiconWord = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
LexiconReading = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
LexiconEntries = Mapping[LexiconWord, LexiconReading]
"""Words, or several words in a row, and what to say instead: other words, or IPA between slashes, as in
`{"SQL": "sequel", "tomato": "/təˈmeɪtoʊ/"}`."""

_TOKEN = re.compile(r"\w+|[^\w\s]")


class Lexicon:
    """Finds the words of a lexicon in a text.

    It looks for whole words, and of several that begin at one place it takes the longest. A word without capitals is found in
    any case; any other only as it is written, so that `US` is not "us".
    """

    def __init__(self, entries: Mapping[str, str]) -> None:
        self._readings = {" ".join(word.split()): reading for word, reading in entries.items()}
        self._lengths: dict[str, list[int]] = {}
        """The lengths of the words that begin with a token, longest first."""
        for word in self._readings:
            if first := _TOKEN.match(word):
                self._lengths.setdefault(first[0].lower(), []).append(len(word))
        self._lengths = {first: sorted(set(lengths), reverse=True) for first, lengths in self._lengths.items()}

    def readings(self, text: str, *, phonemes: bool) -> Iterator[FixedReading]:
        """The words of the lexicon in a text, in order, and how they are read. With `phonemes`, IPA becomes `[word](/ipa/)`;
        without, the word stays as it is written."""
        end = 0
        for token in _TOKEN.finditer(text) if self._lengths else ():
            begin = token.start()
            if begin >= end and (length := self._length_at(text, begin, token[0])):
                end = begin + length
                yield FixedReading(begin, end, self._reading(text[begin:end], phonemes))

    def _length_at(self, text: str, begin: int, token: str) -> int:
        """The length of the longest word of the lexicon that begins at a place; 0 if there is none."""
        if begin and _is_word(text[begin - 1]) and _is_word(token[0]):
            return 0
        for length in self._lengths.get(token.lower(), ()):
            end = begin + length
            ends = end >= len(text) or not (_is_word(text[end]) and _is_word(text[end - 1]))
            if end <= len(text) and ends and self._known(text[begin:end]):
                return length
        return 0

    def _known(self, word: str) -> bool:
        return word in self._readings or word.lower() in self._readings

    def _reading(self, word: str, phonemes: bool) -> str:
        reading = self._readings.get(word) or self._readings[word.lower()]
        if not is_ipa(reading):
            return reading
        return pronounced(word, reading.strip("/")) if phonemes else word


def is_ipa(reading: str) -> bool:
    """Whether a reading is IPA between slashes."""
    return len(reading) > 2 and reading[0] == reading[-1] == "/"


def parse_entry(text: str) -> tuple[str, str]:
    """An entry as the command line takes it: `word=reading`. Raises `MotetError` (invalid)."""
    word, equals, reading = (part.strip() for part in text.partition("="))
    if not (word and equals and reading):
        raise fail("invalid", f"{quoted(text)} is not an entry of a lexicon.", "Write word=reading.", param="lexicon")
    return word, reading


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
