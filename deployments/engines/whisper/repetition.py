"""Phrases that Whisper writes twice although they are said once, mostly after noise."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.audio.pauses import Pause
from deployments.engines.protocols import Word

LEAST_WORDS = 2
"""Words of a phrase. A single word is often said twice."""
LEAST_UNFINISHED = 3
"""Words of the beginning of a phrase, with which a text may end after the whole phrase."""
MOST_BEGUN = 2
"""Fewer words count if they begin the text, and stand after a full stop at its end: "The fox sleeps. The"."""
ENDS = (".", "?", "!", "\u2026")
LEAST_SHARE = 0.5
"""Of the sound of one copy of a phrase: with less than this, the other copy was not said."""
MOST_LETTERS_PER_SECOND = 22.0
"""Letters and digits that are spoken in a second. Usual English has 12 to 15, very fast speech 20."""


def repeats_a_phrase(text: str) -> bool:
    """Whether a phrase of the text follows itself, or its beginning does at the end of the text."""
    words = text.split()
    return _repeat([_plain(word) for word in words], 0) is not None or _unfinished(words) is not None


def without_repeats(words: Sequence[Word], pauses: Sequence[Pause]) -> list[Word]:
    """The words without copies of phrases that have no sound of their own: alignment gives one a moment or a pause, or the
    two together are shorter than a fast speaker needs."""
    kept, first = list(words), 0
    while (found := _repeat([_plain(word.text) for word in kept], first)) is not None:
        start, length = found
        one, other = kept[start : start + length], kept[start + length : start + 2 * length]
        sounds = [_sound_s(copy, pauses) for copy in (one, other)]
        too_fast = _letters([*one, *other]) > MOST_LETTERS_PER_SECOND * sum(sounds)
        if too_fast or min(sounds) < LEAST_SHARE * max(sounds):
            unsaid = start if sounds[0] < LEAST_SHARE * sounds[1] else start + length
            del kept[unsaid : unsaid + length]
            first = start
        else:
            first = start + length
    return _without_unfinished(kept, pauses)


def _without_unfinished(words: list[Word], pauses: Sequence[Pause]) -> list[Word]:
    """The words without an unfinished copy of a phrase at the end, if it has no sound of its own."""
    if (found := _unfinished([word.text.strip() for word in words])) is None:
        return words
    start, length = found
    said, copy = _sound_s(words[start : start + length], pauses), _sound_s(words[-length:], pauses)
    return words[:-length] if copy < LEAST_SHARE * said else words


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


def _letters(words: Sequence[Word]) -> int:
    return sum(len(_plain(word.text)) for word in words)


def _plain(word: str) -> str:
    return "".join(character for character in word.lower() if character.isalnum())


def _repeat(words: Sequence[str], first: int) -> tuple[int, int] | None:
    """Start and length of the next phrase that follows itself, from word `first`; the longest there."""
    for start in range(first, len(words)):
        for length in range((len(words) - start) // 2, LEAST_WORDS - 1, -1):
            if words[start : start + length] == words[start + length : start + 2 * length]:
                return start, length
    return None


def _unfinished(texts: Sequence[str]) -> tuple[int, int] | None:
    """Start and length of the earlier words that the end of the text repeats; the longest."""
    words = [_plain(text) for text in texts]
    count = len(words)
    for length in range((count - 1) // 2, LEAST_UNFINISHED - 1, -1):
        for start in range(count - 2 * length - 1, -1, -1):
            if words[start : start + length] == words[count - length :]:
                return start, length
    for length in range(min(MOST_BEGUN, (count - 1) // 2), 0, -1):
        if words[:length] == words[count - length :] and texts[count - length - 1].endswith(ENDS):
            return 0, length
    return None
