"""How well the times of recognized words fit those of the voice that spoke them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from deployments.engines.protocols import SpokenWord

TOLERANCE_S = 0.2
"""How far a word may reach into a silence before it counts as lying in it: the bound of the error of its ends."""


@dataclass(frozen=True, slots=True)
class WordTimes:
    """Errors of the starts and ends of `compared` words in ms, without their signs, and how many words lie in silences."""

    start_errors_ms: tuple[float, ...]
    end_errors_ms: tuple[float, ...]
    in_silence: int

    @property
    def compared(self) -> int:
        """Words that were said and recognized alike."""
        return len(self.start_errors_ms)


def compare(
    said: Sequence[SpokenWord], heard: Sequence[SpokenWord], silences: Sequence[tuple[float, float]]
) -> WordTimes:
    """Compares the words on which both sides agree."""
    matcher = SequenceMatcher(None, _plain(said), _plain(heard), autojunk=False)
    pairs = [
        (said[block.a + at], heard[block.b + at]) for block in matcher.get_matching_blocks() for at in range(block.size)
    ]
    starts = tuple(abs(found.start - true.start) * 1000 for true, found in pairs)
    ends = tuple(abs(found.end - true.end) * 1000 for true, found in pairs)
    return WordTimes(starts, ends, sum(_is_in_silence(word, silences) for word in heard))


def _plain(words: Sequence[SpokenWord]) -> list[str]:
    return [re.sub(r"\W", "", word.text.casefold()) for word in words]


def _is_in_silence(word: SpokenWord, silences: Sequence[tuple[float, float]]) -> bool:
    """Whether it lies in a silence, or reaches too far into one."""
    for start, end in silences:
        inside = min(word.end, end) - max(word.start, start)
        if inside > TOLERANCE_S or (inside > 0 and start <= word.start and word.end <= end):
            return True
    return False
