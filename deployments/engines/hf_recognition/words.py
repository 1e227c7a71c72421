"""From tokens with times to words with times."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

from deployments.engines.hf_recognition.adapter import TextToken
from deployments.engines.protocols import Word


def words_of(tokens: Sequence[TextToken], length_s: float) -> tuple[Word, ...]:
    """The words of a window of `length_s` seconds. A token that begins with a space begins a word.

    The probability of a word is the mean of its tokens' probabilities, as in faster-whisper. Punctuation does not make a word
    longer: a transducer emits it in the silence after the word (NeMo, `rnnt_decoding.py`, refines its times likewise). A word
    ends where the next one begins, at the latest: an RNN-T may emit several in a frame.
    """
    groups: list[list[TextToken]] = []
    for token in tokens:
        if not groups or token.text[:1].isspace():
            groups.append([])
        groups[-1].append(token)
    words: list[Word] = []
    latest = length_s
    for group in reversed(groups):
        spoken = [token for token in group if any(letter.isalnum() for letter in token.text)] or group[:1]
        start, end = spoken[0].start or 0.0, spoken[-1].end or 0.0
        words.append(
            Word(
                text="".join(token.text for token in group),
                start=min(start, latest),
                end=min(max(start, end), latest),
                probability=sum(exp(token.log_probability) for token in group) / len(group),
                tokens=tuple(part for token in group for part in token.ids),
            )
        )
        latest = words[-1].start
    return tuple(reversed(words))
