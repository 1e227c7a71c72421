"""hibari: a small English voice (ONNX, 24 kHz), many times faster than real time on one core.

The network takes one sentence at a time, so each of the replica's threads speaks for one utterance, with one ONNX Runtime
thread. A step speaks the next sentences of a piece, and ends as soon as one utterance has audio (`utterance_threads.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from hibari import SAMPLE_RATE, Hibari
from hibari.tts import MAX_PHONEMES
from hibari.voices import VOICES

from deployments.engines.hibari.utterance_threads import StepPace, UtteranceThreads
from deployments.engines.protocols import AudioChunk, EngineSpec, Samples, SpeechRequest, SpeechTraits, Voice
from deployments.engines.speech import SILENCE, PieceUtterance, cut_at_spaces, unknown_voice
from deployments.errors import fail
from deployments.text.english import readable

STEP_MS = 40.0
"""The target duration of a step, for a piece of several sentences."""
FIRST_PHONEMES_PER_SECOND = 2000.0
"""The assumed speed before the first measurement: about 120 times real time."""


@dataclass(slots=True, eq=False, kw_only=True)
class HibariUtterance(PieceUtterance):
    """The state of a stream and its voice. `parts` are the remaining sentences of the current piece, in phonemes, and `noise`
    is its generator."""

    voice: str
    parts: tuple[str, ...] = ()
    noise: np.random.Generator | None = None


@dataclass(frozen=True, slots=True)
class _SpokenSentences:
    """The samples of some sentences of a piece, and the state to continue the piece with."""

    samples: Samples
    rest: tuple[str, ...]
    noise: np.random.Generator


class HibariEngine:
    """Speaks with every hibari voice whose ONNX file is in the folder."""

    def __init__(self, spec: EngineSpec) -> None:
        self._voices = {name: _voice(name, path) for name, path in _voice_files(spec)}
        if not self._voices:
            raise fail("unavailable", f"{spec.folder} contains no hibari voice.", "Check the model's source.")
        self._threads: UtteranceThreads[_SpokenSentences] = UtteranceThreads(spec.threads, "hibari")
        self._pace = StepPace(_step_ms(spec) / 1000, FIRST_PHONEMES_PER_SECOND)
        for voice in self._voices.values():
            _ = voice.g2p  # loads the lexicon now rather than in the first request

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
        return SpeechTraits(SAMPLE_RATE, voices, default_voice=voices[0].id, min_speed=0.5, max_speed=1.5, exact=True)

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
        if utterance.parts:
            return float(sum(map(len, utterance.parts[: self._pace.fitting(utterance.parts)])))
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
        voice, request, parts, noise = (
            self._voices[utterance.voice],
            utterance.request,
            utterance.parts,
            utterance.noise,
        )
        if noise is None:
            # The noise depends only on the seed and the index of the piece, so a piece sounds the same in any batch.
            noise = np.random.default_rng([request.seed, utterance.index])
            parts = tuple(_parts(voice, utterance.pieces[utterance.position]))
        count = self._pace.fitting(parts)
        if not count:
            return _SpokenSentences(SILENCE, (), noise)
        with self._pace.measured(sum(map(len, parts[:count]))):
            samples = [voice.from_ids(voice.ids(part), request.speed, noise) for part in parts[:count]]
        return _SpokenSentences(np.concatenate(samples), parts[count:], noise)


def _chunk(utterance: HibariUtterance, result: _SpokenSentences | Exception | None) -> AudioChunk | Exception:
    """The chunk for a worker's result, and the utterance's next state; a pending chunk for None."""
    index, text = utterance.index, utterance.pieces[utterance.position]
    if result is None:
        return AudioChunk(SILENCE, SAMPLE_RATE, index, text, last=False, pending=True, piece_over=False)
    if isinstance(result, Exception):
        utterance.closed = True
        return result
    over = not result.rest
    utterance.parts, utterance.noise = result.rest, None if over else result.noise
    utterance.position += over
    return AudioChunk(result.samples, SAMPLE_RATE, index, text, last=utterance.finished, piece_over=over)


def _parts(voice: Hibari, text: str) -> Iterator[str]:
    """The phonemes of a piece, in parts that the network takes. The package cuts long sentences at clauses; a sentence
    without clauses, such as a long number, is cut between words here, because time and memory grow with the longest part."""
    for phonemes in voice.phonemize(readable(text)):
        yield from cut_at_spaces(phonemes, MAX_PHONEMES)


def _voice(name: str, path: Path) -> Hibari:
    """A voice that returns its memory to the allocator. ONNX Runtime's arena would keep what the longest sentence needed, and
    its memory patterns one plan for each length; the speed without them is the same."""
    voice = Hibari(voice=name, model=str(path), threads=1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.log_severity_level = 3
    voice.sess = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return voice


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
