"""A document as passages: parts with one voice and one speed, between two borders."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from deployments.text.segmentation import visible
from deployments.text.spoken import FixedReading


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document, with single spaces between its words. `readings` are the words whose reading the document says.
    `pause_s` seconds of silence follow it. `speed` is a factor, and `voice` the name of another voice. A passage `joins` the
    one before it if only its speed or voice differs."""

    text: str
    readings: tuple[FixedReading, ...] = ()
    pause_s: float = 0.0
    speed: float = 1.0
    voice: str | None = None
    joins: bool = False


_MARKS = re.compile(r"[,.;:!?…)\]]+")
"""Marks that belong to the word before them, also where an element ends between."""


class PassageWriter:
    """Makes passages of words, borders and pauses."""

    def __init__(self) -> None:
        self.passages: list[Passage] = []
        self._text = ""
        self._parts: list[str] = []
        self._length = 0
        self._wants_space = False
        self._readings: list[FixedReading] = []
        self._paragraph_s = 0.0
        self._apart = True  # whether the next words are of another sentence than the passages so far

    def write(self, text: str, spoken: str | None = None) -> None:
        """Appends words, perhaps with what is spoken of them."""
        text = visible(text)
        if spoken is None and not (self._length or self._apart) and (marks := _MARKS.match(text)):
            before = self.passages[-1]
            self.passages[-1] = replace(before, text=before.text + marks[0])
            text = text[marks.end() :]
        words = " ".join(text.split())
        self._wants_space = self._wants_space or text[:1].isspace()
        if not words:
            return
        if self._wants_space and self._length:
            self._append(" ")
        if spoken is not None:
            self._readings.append(FixedReading(self._length, self._length + len(words), spoken))
        self._append(words)
        self._wants_space = text[-1].isspace()

    def end_passage(self, speed: float, voice: str | None, *, sentence: bool) -> None:
        """A border: the words so far are a passage with that speed and voice. It may also be the end of a `sentence`."""
        if self._length:
            if self.passages:
                self.pause(self._paragraph_s)
            self._paragraph_s = 0.0
            self.passages.append(
                Passage("".join(self._parts), tuple(self._readings), 0.0, speed, voice, not self._apart)
            )
            self._apart = False
        self._apart = self._apart or sentence
        self._parts, self._readings, self._length, self._wants_space = [], [], 0, False

    def end_paragraph(self, pause_s: float) -> None:
        """The next words, if any follow, begin another paragraph after a pause."""
        self._paragraph_s = pause_s

    def pause(self, seconds: float) -> None:
        """Adds silence after the passages so far."""
        if not self.passages:
            self.passages.append(Passage(""))
        self.passages[-1] = replace(self.passages[-1], pause_s=self.passages[-1].pause_s + seconds)

    def _append(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)
