"""Scripts of several speakers: `Speaker 1: Good morning. Speaker 2: Is it?`"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MOST_SPEAKERS = 4
_MARK = re.compile(r"(?:^|(?<=\s))Speaker (\d{1,2}):\s*")


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker says before the next one does. Speakers count from 1."""

    speaker: int
    text: str


def turns(text: str) -> list[Turn]:
    """The turns of a text, in order; what stands before the first mark is Speaker 1's."""
    parts = _MARK.split(text)
    named = zip(["1", *parts[1::2]], parts[0::2], strict=True)
    return [Turn(int(speaker), words.strip()) for speaker, words in named if words.strip()]


def carried_on(pieces: Sequence[str]) -> tuple[str, ...]:
    """The pieces, each beginning with its speaker's mark, so that it can be spoken without those before it. A text without
    marks stays as it is."""
    speaker, marked = "", []
    for piece in pieces:
        begins = _MARK.match(piece)
        marked.append(piece if begins or not speaker else f"Speaker {speaker}: {piece}")
        speaker = ([speaker] + [mark.group(1) for mark in _MARK.finditer(piece)])[-1]
    return tuple(marked)
