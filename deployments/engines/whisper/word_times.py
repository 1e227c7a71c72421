"""The times of words, from the states that the text's tokens attend to, and from the pauses of the sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from faster_whisper.tokenizer import Tokenizer

from deployments.audio.pauses import Pause
from deployments.engines.protocols import Word

STATE_S = 0.02
"""Seconds between two states of the encoder."""
# Punctuation that belongs to the next or the previous word (openai/whisper, timing.py).
BEFORE_A_WORD = "\"'“¿([{-"
AFTER_A_WORD = "\"'.。,，!！?？:：”)]}、"

ATTENTION_LEAD_S = 0.05
"""A token attends to its word this much before the word begins. Measured with Whisper base against the durations of a voice
(1,025 words): this shift takes the median of the difference at starts to 1 ms."""
PAUSE_REACH_S = 0.35
"""A pause belongs to the nearest boundary between words, if that is not farther away."""
DECAY_S, RISE_S = 0.06, 0.02
"""Sounds are audible below the threshold of a pause: a word begins and ends this far in one."""


def words_of(
    alignment: Any, tokens: Sequence[int], tokenizer: Tokenizer, pauses: Sequence[Pause], seconds: float
) -> list[Word]:
    """The words of a window with their times in seconds from its start.

    `alignment` is CTranslate2's: pairs (token, state) on the path of dynamic time warping through the cross-attention. A
    word's probability is the mean of its tokens'. The window has these `pauses` and is `seconds` long.
    """
    texts, groups = tokenizer.split_to_word_tokens([*tokens, tokenizer.eot])
    if len(texts) < 2 or not alignment.alignments:
        return []
    pairs = np.array(alignment.alignments)
    first_states = pairs[np.diff(pairs[:, 0], prepend=-1) > 0, 1]
    firsts = np.cumsum([0, *(len(group) for group in groups[:-1])])
    edges = first_states[firsts] * STATE_S
    words = [
        Word(text, float(start), float(end), float(np.mean(alignment.text_token_probs[first:last])), tuple(group))
        for text, group, start, end, first, last in zip(
            texts[:-1], groups[:-1], edges[:-1], edges[1:], firsts[:-1], firsts[1:], strict=True
        )
    ]
    return placed_words(words, pauses, seconds)


def placed_words(words: Sequence[Word], pauses: Sequence[Pause], seconds: float) -> list[Word]:
    """Words with the times of the attention, now with those of the sound, and with their punctuation."""
    later = [
        replace(word, start=word.start + ATTENTION_LEAD_S, end=word.end + ATTENTION_LEAD_S)
        for word in with_punctuation(words)
    ]
    return in_order(at_pauses(later, pauses), seconds)


def with_punctuation(words: Sequence[Word]) -> list[Word]:
    """The words with punctuation joined to them. The word's times stay: a pause belongs to the mark after a word."""
    joined: list[Word] = []
    opening: Word | None = None
    for word in words:
        mark = word.text.strip()
        if word.text.startswith(" ") and mark and mark in BEFORE_A_WORD:
            opening = word if opening is None else _joined(opening, word, word)
        elif joined and opening is None and word.text and word.text in AFTER_A_WORD:
            joined[-1] = _joined(joined[-1], word, joined[-1])
        else:
            joined.append(word if opening is None else _joined(opening, word, word))
            opening = None
    return joined if opening is None else [*joined, opening]


def _joined(first: Word, second: Word, times_of: Word) -> Word:
    return replace(times_of, text=first.text + second.text, tokens=first.tokens + second.tokens)


def at_pauses(words: Sequence[Word], pauses: Sequence[Pause]) -> list[Word]:
    """The words with their edges moved to the pauses: each pause, the longest first, to the nearest boundary of words."""
    placed = list(words)
    free = set(range(len(words) + 1)) if words else set()
    for pause in sorted(pauses, key=lambda pause: pause[0] - pause[1]):
        near = {at: distance for at in free if (distance := _distance(placed, at, pause)) <= PAUSE_REACH_S}
        if near:
            boundary = min(near, key=lambda at: (near[at], at))
            free.remove(boundary)
            _put(placed, boundary, pause)
    return placed


def _distance(words: Sequence[Word], boundary: int, pause: Pause) -> float:
    """Seconds between the pause and the gap before word `boundary`, 0 if they overlap."""
    before = words[boundary - 1].end if boundary else 0.0
    after = words[boundary].start if boundary < len(words) else words[-1].end
    start, end = min(before, after), max(before, after)
    return max(pause[0] - end, start - pause[1], 0.0)


def _put(words: list[Word], boundary: int, pause: Pause) -> None:
    if boundary:
        words[boundary - 1] = replace(words[boundary - 1], end=min(pause[0] + DECAY_S, sum(pause) / 2))
    if boundary < len(words):
        words[boundary] = replace(words[boundary], start=max(pause[1] - RISE_S, sum(pause) / 2))


def in_order(words: Sequence[Word], length: float) -> list[Word]:
    """The words with starts in order, each ending before the next starts, all within `length` seconds."""
    starts = np.minimum(np.maximum.accumulate([word.start for word in words] or [0.0]), length)
    limits = [*starts[1:].tolist(), length]
    return [
        replace(word, start=float(start), end=max(float(start), min(word.end, limit)))
        for word, start, limit in zip(words, starts, limits, strict=False)
    ]
