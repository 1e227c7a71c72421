"""The events of a speech stream, as JSON objects. Server-sent events have OpenAI's names, with fields of our own."""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from deployments.engines.protocols import SpokenWord
from serve_app.gateway.speech.answers import SpeechAudioConcealed, SpeechUsage
from serve_app.gateway.speech.pacing_report import PacingReport
from serve_app.gateway.speech.plan import SpeechPlan

MAX_WORDS_BYTES = 1024
"""Of the words in one server-sent event."""
MAX_LETTER_BYTES, WORD_BYTES = 6, 48
"""Of JSON, for a letter as an escape, and for a word beside its letters."""


@dataclass(frozen=True, slots=True)
class PieceStart:
    """A piece of the text whose sound begins, `start_seconds` into the stream, and who speaks it. `text` is what was written,
    `spoken` what the model reads."""

    index: int
    text: str
    spoken: str
    start_seconds: float
    model: str
    voice: str


def audio_delta(data: bytes, starts: Sequence[PieceStart], words: Sequence[SpokenWord] = ()) -> dict[str, object]:
    """Bytes of encoded sound, the pieces of the text that begin in it, and the words that became known with it."""
    delta: dict[str, object] = {"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()}
    pieces = [
        {"index": piece.index, "text": piece.text, **_spoken(piece), "start_seconds": piece.start_seconds}
        for piece in starts
    ]
    return delta | ({"pieces": pieces} if pieces else {}) | word_times(words)


def word_times(words: Sequence[SpokenWord]) -> dict[str, object]:
    """The field of words with their times in seconds of the stream; none without words."""
    return {"words": list(map(asdict, words))} if words else {}


def next_words(waiting: deque[SpokenWord]) -> list[SpokenWord]:
    """Takes the words of the next event out of those that wait: as many as keep its line short (`sse.MAX_AUDIO_BYTES`), but
    at least one."""
    words, left = list[SpokenWord](), MAX_WORDS_BYTES
    while waiting and (not words or left >= _bytes_of(waiting[0])):
        words.append(waiting.popleft())
        left -= _bytes_of(words[-1])
    return words


def _bytes_of(word: SpokenWord) -> int:
    return MAX_LETTER_BYTES * len(word.text) + WORD_BYTES


def words_of_pieces(words: Iterable[tuple[int, SpokenWord]]) -> Iterator[dict[str, Any]]:
    """The events of a WebSocket session with words, one for each piece, whose numbers the words come with."""
    for index, group in groupby(words, lambda found: found[0]):
        yield {"type": "audio.words", "sentence_index": index, **word_times([word for _, word in group])}


def _spoken(piece: PieceStart) -> dict[str, str]:
    """What the model reads, if it differs from what was written."""
    return {"spoken": piece.spoken} if piece.spoken != piece.text else {}


def concealed(report: PacingReport) -> SpeechAudioConcealed:
    """The gaps so far, and whether the fallback voice has taken over."""
    return {
        "type": "speech.audio.concealed",
        "concealed_seconds": round(report.concealed_seconds, 3),
        "fallback": report.fallback,
        "fallback_piece": report.fallback_piece,
    }


def usage(characters: int, seconds: float) -> SpeechUsage:
    """OpenAI's usage of a text and `seconds` of sound. Speech models here have no tokens: a character counts as one input
    token, a tenth of a second as one output token."""
    tenths = round(seconds * 10)
    return {
        "input_tokens": characters,
        "output_tokens": tenths,
        "total_tokens": characters + tenths,
        "audio_seconds": round(seconds, 3),
    }


class PieceEvents:
    """The events of a WebSocket session around the sound of each piece. `bytes` counts the sound of the current piece."""

    def __init__(self, plan: SpeechPlan) -> None:
        self.count = 0
        self.bytes = 0
        self._plan = plan
        self._current: PieceStart | None = None

    def start(self, piece: PieceStart) -> Iterator[dict[str, Any]]:
        """The events before the sound of a piece."""
        yield from self.end()
        self.count += 1
        self._current = piece
        yield {
            "type": "audio.start",
            "sentence_index": piece.index,
            "sentence_text": piece.text,
            **_spoken(piece),
            "start_seconds": piece.start_seconds,
            "format": self._plan.audio_format,
            "sample_rate": self._plan.encoded_rate,
            "model": piece.model,
            "voice": piece.voice,
            **({"ignored": list(self._plan.ignored)} if self._plan.ignored else {}),
        }

    def end(self) -> Iterator[dict[str, Any]]:
        """The event after the sound of the current piece, if there is one."""
        if self._current is not None:
            yield {"type": "audio.done", "sentence_index": self._current.index, "total_bytes": self.bytes}
            self._current, self.bytes = None, 0
