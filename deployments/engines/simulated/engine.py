"""An engine whose steps take a set time, to measure everything around an engine.

As with an autoregressive model on an accelerator, a step costs the same for one stream as for a full batch, and gives some
frames of audio. The audio is a tone whose pitch is a hash of the text, so a test can tell which text it belongs to.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from deployments.engines.protocols import (
    AudioChunk,
    EngineSpec,
    Samples,
    SpeechRequest,
    SpeechTraits,
    SpokenWord,
    Voice,
)
from deployments.text.word_mapping import words_in

SAMPLE_RATE = 24_000
POISON = "poison"
"""The step of a piece with this word raises an error."""
STALL = "stall"
"""The first step of a piece with this word takes `stall_ms` longer."""


@dataclass(slots=True)
class SimulatedUtterance:
    """The state of a stream: the piece, and how many of its samples are done."""

    request: SpeechRequest
    piece: int = 0
    done: int = 0
    closed: bool = False

    @property
    def finished(self) -> bool:
        """True when every piece was spoken, or the caller closed the utterance."""
        return self.closed or self.piece >= len(self.request.pieces)


class SimulatedEngine:
    """A step takes `step_ms`, plus `item_ms` for each item, plus `stall_ms` for a piece that stalls. It gives `chunk_ms` of
    audio; a piece has `character_ms` of audio for each character. With `leak_bytes`, each step keeps as much memory for ever,
    which a soak test must find."""

    def __init__(self, spec: EngineSpec, sleep: Callable[[float], None] = time.sleep) -> None:
        options = spec.options
        self._step_seconds = _number(options.get("step_ms", 50)) / 1000
        self._item_seconds = _number(options.get("item_ms", 0)) / 1000
        self._chunk = int(_number(options.get("chunk_ms", 160)) / 1000 * SAMPLE_RATE)
        self._stall_seconds = _number(options.get("stall_ms", 0)) / 1000
        self._character = int(_number(options.get("character_ms", 60)) / 1000 * SAMPLE_RATE)
        self._leak_bytes = int(_number(options.get("leak_bytes", 0)))
        self._leaked: list[bytes] = []
        self._sleep = sleep

    @property
    def traits(self) -> SpeechTraits:
        """One voice, at any speed."""
        voice = Voice("tone", "und", "a tone for each text")
        return SpeechTraits(SAMPLE_RATE, (voice,), voice.id, 0.25, 4.0, exact=True, word_times=True, is_speech=False)

    def open(self, request: SpeechRequest) -> SimulatedUtterance:
        """Any text."""
        return SimulatedUtterance(request)

    def first_cost(self, request: SpeechRequest) -> float:
        """The same for every step."""
        return 1.0

    def cost(self, utterance: SimulatedUtterance) -> float:
        """The same for every step."""
        return 1.0

    def step(self, utterances: Sequence[SimulatedUtterance]) -> list[AudioChunk | Exception]:
        """The next chunk of each."""
        stall = self._stall_seconds if any(_stalls(utterance) for utterance in utterances) else 0.0
        self._sleep(self._step_seconds + self._item_seconds * len(utterances) + stall)
        if self._leak_bytes:
            self._leaked.append(b"leak" * (self._leak_bytes // 4))
        return [self._advance(utterance) for utterance in utterances]

    def close(self, utterance: SimulatedUtterance) -> None:
        """Marks the utterance as closed."""
        utterance.closed = True

    def _advance(self, utterance: SimulatedUtterance) -> AudioChunk | Exception:
        request = utterance.request
        text, index = request.pieces[utterance.piece], request.first_index + utterance.piece
        if POISON in text.lower():
            utterance.closed = True
            return ValueError(f"the text says {POISON!r}")
        length = int(len(text) * self._character / request.speed)
        samples = tone(text, utterance.done, min(length, utterance.done + self._chunk))
        words = () if utterance.done else tuple(self._words(text, length / SAMPLE_RATE))
        utterance.done += len(samples)
        over = utterance.done >= length
        if over:
            utterance.piece, utterance.done = utterance.piece + 1, 0
        return AudioChunk(samples, SAMPLE_RATE, index, text, last=utterance.finished, piece_over=over, words=words)

    @staticmethod
    def _words(text: str, seconds: float) -> Iterator[SpokenWord]:
        """The words of a piece: each lies where its characters lie."""
        at = 0
        for word in words_in(text):
            at = text.index(word, at)
            end = at + len(word)
            yield SpokenWord(word, at / len(text) * seconds, end / len(text) * seconds)
            at = end


def _stalls(utterance: SimulatedUtterance) -> bool:
    return utterance.done == 0 and not utterance.finished and STALL in utterance.request.pieces[utterance.piece].lower()


def tone(text: str, start: int, stop: int) -> Samples:
    """Samples `start` to `stop` of the text's tone, float32 (n,), at a pitch of 200 to 2200 Hz."""
    pitch = 200 + zlib.crc32(text.encode()) % 2000
    times = np.arange(start, stop) / SAMPLE_RATE
    samples: Samples = (0.25 * np.sin(2 * np.pi * pitch * times)).astype(np.float32)
    return samples


def _number(value: object) -> float:
    return float(str(value))


def load(spec: EngineSpec) -> SimulatedEngine:
    """The engine. It has no weights."""
    return SimulatedEngine(spec)
