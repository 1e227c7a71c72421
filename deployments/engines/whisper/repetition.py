"""Phrases that Whisper writes twice although they are said once, mostly after noise."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.engines.protocols import Word
from deployments.engines.whisper.word_times import Pause

LEAST_WORDS = 2
"""Words of a phrase. A single word is often said twice."""
LEAST_SHARE = 0.5
"""Of the sound of one copy of a phrase: with less than this, the other copy was not said."""


def repeats_a_phrase(text: str) -> bool:
    """Whether a phrase of the text follows itself."""
    return _repeat([_plain(word) for word in text.split()], 0) is not None


def without_repeats(words: Sequence[Word], pauses: Sequence[Pause]) -> list[Word]:
    """The words without copies of phrases that have no sound of their own: alignment gives one a moment or a pause."""
    kept, first = list(words), 0
    while (found := _repeat([_plain(word.text) for word in kept], first)) is not None:
        start, length = found
        one, other = kept[start : start + length], kept[start + length : start + 2 * length]
        sounds = [_sound_s(copy, pauses) for copy in (one, other)]
        if min(sounds) < LEAST_SHARE * max(sounds):
            unsaid = start if sounds[0] < sounds[1] else start + length
            del kept[unsaid : unsaid + length]
            first = start
        else:
            first = start + length
    return kept


def of_kept(kept: Sequence[Word], words: Sequence[Word], values: Sequence[float]) -> list[float]:
    """Of one value for each token of `words`, those of the `kept` among them, which are the same objects."""
    objects = set(map(id, kept))
    found: list[float] = []
    at = 0
    for word in words:
        after = at + len(word.tokens)
        if id(word) in objects:
            found += values[at:after]
        at = after
    return found


def _sound_s(words: Sequence[Word], pauses: Sequence[Pause]) -> float:
    """Seconds from the first word's start to the last one's end that are in no pause."""
    start, end = words[0].start, words[-1].end
    return end - start - sum(max(0.0, min(end, pause[1]) - max(start, pause[0])) for pause in pauses)


def _plain(word: str) -> str:
    return "".join(character for character in word.lower() if character.isalnum())


def _repeat(words: Sequence[str], first: int) -> tuple[int, int] | None:
    """Start and length of the next phrase that follows itself, from word `first`; the longest there."""
    for start in range(first, len(words)):
        for length in range((len(words) - start) // 2, LEAST_WORDS - 1, -1):
            if words[start : start + length] == words[start + length : start + 2 * length]:
                return start, length
    return None
