"""hibari: a small English voice (ONNX, 24 kHz), many times faster than real time on one core.

The network takes one sentence at a time, so each of the replica's threads speaks for one utterance, with one ONNX Runtime
thread. A step speaks the next sentences of a piece, and ends as soon as one utterance has audio (`utterance_threads.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from hibari import SAMPLE_RATE
from hibari.voices import VOICES

from deployments.engines.hibari.utterance_threads import StepPace, UtteranceThreads
from deployments.engines.hibari.voice import TimedVoice
from deployments.engines.protocols import (
    AudioChunk,
    EngineSpec,
    Samples,
    SpeechRequest,
    SpeechTraits,
    SpokenWord,
    Voice,
)
from deployments.engines.speech import SILENCE, PieceUtterance, unknown_voice
from deployments.engines.word_durations import PhonemeLine, PieceWords
from deployments.errors import fail

STEP_MS = 40.0
"""The target duration of a step, for a piece of several sentences."""
FIRST_PHONEMES_PER_SECOND = 2000.0
"""The assumed speed before the first measurement: about 120 times real time."""


@dataclass(frozen=True, slots=True)
class _PieceInProgress:
    """The remaining lines of a piece, one a sentence, its generator, and its words. Only one worker uses it at a time."""

    lines: tuple[PhonemeLine, ...]
    noise: np.random.Generator
    words: PieceWords


@dataclass(slots=True, eq=False, kw_only=True)
class HibariUtterance(PieceUtterance):
    """The state of a stream and its voice. `current` is the piece of which something was spoken already."""

    voice: str
    current: _PieceInProgress | None = None


@dataclass(frozen=True, slots=True)
class _SpokenSentences:
    """The samples and words of some sentences of a piece, and the rest of the piece."""

    samples: Samples
    words: tuple[SpokenWord, ...]
    rest: _PieceInProgress


class HibariEngine:
    """Speaks with every hibari voice whose ONNX file is in the folder."""

    def __init__(self, spec: EngineSpec) -> None:
        self._voices = {name: TimedVoice(name, path) for name, path in _voice_files(spec)}
        if not self._voices:
            raise fail("unavailable", f"{spec.folder} contains no hibari voice.", "Check the model's source.")
        self._threads: UtteranceThreads[_SpokenSentences] = UtteranceThreads(spec.threads, "hibari")
        self._pace = StepPace(_step_ms(spec) / 1000, FIRST_PHONEMES_PER_SECOND)

    @property
    def concurrency(self) -> int:
        """Utterances that are spoken at the same time."""
        return self._threads.count

    @property
    def traits(self) -> SpeechTraits:
        """24 kHz. Above a speed of 1.5 the voice is slower than requested."""
        voices = tuple(
            Voice(name, VOICES[name]["language"], f"{VOICES[name]['accent']} {VOICES[name]['gender']}")
            for name in self._voices
        )
        timed = all(voice.knows_durations for voice in self._voices.values())
        return SpeechTraits(SAMPLE_RATE, voices, voices[0].id, 0.5, 1.5, exact=True, phonemes=True, word_times=timed)

    def open(self, request: SpeechRequest) -> HibariUtterance:
        """Raises `MotetError` (not_found) for a voice that is not here."""
        if request.voice not in self._voices:
            raise unknown_voice(request.voice, self._voices)
        return HibariUtterance(request=request, voice=request.voice)

    def first_cost(self, request: SpeechRequest) -> float:
        """Characters of the first piece."""
        return float(len(request.pieces[0]))

    def cost(self, utterance: HibariUtterance) -> float:
        """Phonemes in the next step; for a new piece its characters, which are about as many."""
        if utterance.current:
            lines = _phonemes(utterance.current.lines)
            return float(sum(map(len, lines[: self._pace.fitting(lines)])))
        return float(len(utterance.pieces[utterance.position]))

    def step(self, utterances: Sequence[HibariUtterance]) -> list[AudioChunk | Exception]:
        """The next sentences of at least one utterance. The chunks of the others are `pending`."""
        results = self._threads.step({utterance: partial(self._speak, utterance) for utterance in utterances})
        return [_chunk(utterance, results.get(utterance)) for utterance in utterances]

    def close(self, utterance: HibariUtterance) -> None:
        """Drops the pieces that were not spoken."""
        utterance.closed = True
        utterance.pieces = ()
        self._threads.forget(utterance)

    def _speak(self, utterance: HibariUtterance) -> _SpokenSentences:
        """Runs on a worker thread. It must not change the utterance, which the engine's thread reads meanwhile."""
        voice, speed = self._voices[utterance.voice], utterance.request.speed
        piece = utterance.current or self._begun(utterance)
        count = self._pace.fitting(phonemes := _phonemes(piece.lines))
        sounds, words = [SILENCE], list[SpokenWord]()
        with self._pace.measured(sum(map(len, phonemes[:count]))):
            for number, line in enumerate(piece.lines[:count], 1):
                samples, ends_s = voice.speak(line.phonemes, speed, piece.noise)
                words += piece.words.spoken(line, ends_s, samples, last=number == len(piece.lines))
                sounds.append(samples)
        return _SpokenSentences(np.concatenate(sounds), tuple(words), replace(piece, lines=piece.lines[count:]))

    def _begun(self, utterance: HibariUtterance) -> _PieceInProgress:
        text = utterance.pieces[utterance.position]
        voice = self._voices[utterance.voice]
        read = voice.read(text)
        # The noise depends only on the seed and the index of the piece, so a piece sounds the same in any batch.
        noise = np.random.default_rng([utterance.request.seed, utterance.index])
        return _PieceInProgress(read.lines, noise, PieceWords(text, read.words, SAMPLE_RATE))


def _phonemes(lines: Sequence[PhonemeLine]) -> list[str]:
    return [line.phonemes for line in lines]


def _chunk(utterance: HibariUtterance, result: _SpokenSentences | Exception | None) -> AudioChunk | Exception:
    """The chunk for a worker's result, and the utterance's next state; a pending chunk for None."""
    index, text = utterance.index, utterance.pieces[utterance.position]
    if result is None:
        return AudioChunk(SILENCE, SAMPLE_RATE, index, text, last=False, pending=True, piece_over=False)
    if isinstance(result, Exception):
        utterance.closed = True
        return result
    over = not result.rest.lines
    utterance.current = None if over else result.rest
    utterance.position += over
    last = utterance.finished
    return AudioChunk(result.samples, SAMPLE_RATE, index, text, last, piece_over=over, words=result.words)


def _step_ms(spec: EngineSpec) -> float:
    value = spec.options.get("step_ms", STEP_MS)
    if not (isinstance(value, int | float) and value > 0):
        raise fail("invalid", f"step_ms is {value!r}.", "Give a number of milliseconds above 0.", param="options")
    return float(value)


def _voice_files(spec: EngineSpec) -> Iterator[tuple[str, Path]]:
    for name, facts in VOICES.items():
        for folder in (Path(spec.folder), Path(spec.folder) / "voices"):
            if (folder / facts["file"]).is_file():
                yield name, folder / facts["file"]
                break


def load(spec: EngineSpec) -> HibariEngine:
    """Loads the voices in `spec.folder`."""
    return HibariEngine(spec)
