"""Scripts of several speakers: `Speaker 1: Good morning. Speaker 2: Is it?`"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deployments.errors import fail
from deployments.text.spoken import FixedReading

MOST_SPEAKERS = 4
_MARK = re.compile(r"(?:^|(?<=\s))Speaker (\d{1,2}):\s*")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker says before the next one does. Speakers count from 1."""

    speaker: int
    text: str


def turns(text: str) -> list[Turn]:
    """The turns of a text, in order. Text before the first mark belongs to Speaker 1."""
    parts = _MARK.split(text)
    named = zip(["1", *parts[1::2]], parts[0::2], strict=True)
    return [Turn(int(speaker), words.strip()) for speaker, words in named if words.strip()]


class Script:
    """A script that is read piece by piece, and remembers who is speaking."""

    def __init__(self) -> None:
        self._speaker = ""

    def carry_on(self, pieces: Sequence[str]) -> tuple[str, ...]:
        """The next pieces, each with its speaker's mark at its start, so that it can be spoken without those before it.

        Leaves out pieces that only name a speaker. A text without marks stays as it is.
        """
        marked = []
        for piece in pieces:
            if turns(piece):
                marked.append(piece if _MARK.match(piece) or not self._speaker else f"Speaker {self._speaker}: {piece}")
            self._speaker = ([self._speaker] + [mark.group(1) for mark in _MARK.finditer(piece)])[-1]
        return tuple(marked)


def marks(text: str) -> Iterator[FixedReading]:
    """The speakers' marks of a text, which a model reads as they are written."""
    return (FixedReading(mark.start(), mark.end(), mark[0]) for mark in _MARK.finditer(text))


def without_marks(pieces: Sequence[str]) -> tuple[str, ...]:
    """Only the words of some pieces, for one voice that reads all of them."""
    return tuple(" ".join(turn.text for turn in turns(piece)) for piece in pieces)


def check_speakers(pieces: Sequence[str], voices: int) -> None:
    """Raises `MotetError` (invalid) for the first speaker of a script whose number is above the number of `voices`."""
    for speaker in (turn.speaker for piece in pieces for turn in turns(piece)):
        if not 1 <= speaker <= voices:
            has = "There is 1 voice" if voices == 1 else f"There are {voices} voices"
            raise fail(
                "invalid",
                f"{has}, and the text has a Speaker {speaker}.",
                "Give a voice for each speaker, such as voice: ada,ben; the first is Speaker 1.",
                param="voice",
                code="speaker_without_voice",
            )
