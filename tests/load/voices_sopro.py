"""Sopro v2 at full size with random weights, ours and its package's, on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deployments.audio.test_tone import hum
from deployments.engines.graphs import Bucket, CapturedStep, backend_for, relative_error
from deployments.engines.protocols import (
    Samples,
    SpeechRequest,
    VoiceReference,
)
from deployments.text.sample_sentences import SENTENCES

if TYPE_CHECKING:
    pass

from tests.load.voice_runs import Setting, using_threads

THREADS = (1, 2)


class SoproContest:
    """Sopro v2 at full size with random weights and a clip of ten seconds."""

    def __init__(self, folder: Path, seconds: float, shape: Mapping[str, Any] | None = None) -> None:
        """`shape` is for a smaller model."""
        from deployments.engines.protocols import EngineSpec
        from deployments.engines.sopro.engine import load
        from tests.load.sopro_package import load_package, write_random_model

        shape = shape or {}
        generation = {**shape.get("generation", {}), "max_seconds": seconds, "min_seconds": seconds}
        write_random_model(folder, {**shape, "generation": generation}, SENTENCES)
        self._module = load_package()
        self._packages = {
            kind: self._module.SoproTTS.from_pretrained(str(folder), quantization=kind) for kind in (None, "int8")
        }
        options = {"precision": "int8", "trim_silence": False}
        self.engine = load(EngineSpec("sopro", str(folder), "cpu", torch.get_num_threads(), options))
        self._clip = VoiceReference("bench", hum(24_000, 10.0), 24_000)
        clip = torch.from_numpy(self._clip.samples)[None]
        # Eight-bit weights are in the package's decoder only, so one reference serves both.
        self._voice = self._packages[None].prepare_reference(ref_audio=clip, sample_rate=24_000, stream=True)

    @property
    def package(self) -> list[Setting]:
        """One thread or two, float32 or its eight-bit weights."""
        return [
            Setting(f"{kind or 'float32'}, {threads} threads", partial(self._speak, kind, threads))
            for kind in self._packages
            for threads in THREADS
        ]

    def _speak(self, kind: str | None, threads: int, number: int) -> Iterator[Samples]:
        with using_threads(threads), _without_gates(self._module):
            for chunk in self._packages[kind].stream(_text(number), ref=self._voice):
                yield chunk.numpy()

    def request(self, number: int) -> SpeechRequest:
        """One piece of text, spoken like the clip."""
        return SpeechRequest((_text(number),), self._clip.id, seed=number, reference=self._clip)

    def steps(self, buckets: Sequence[Bucket]) -> Iterator[tuple[Bucket, Callable[[], Any], Callable[[], Any], float]]:
        """The decoder's step: sixteen of them make a chunk. Compared are the logits before a token is drawn of them."""
        captured = self.engine.captured
        captured.backend = backend_for("cpu")
        captured.batches, captured.lengths = [bucket.batch for bucket in buckets], [buckets[0].length]
        logits = logits_step(self.engine, captured)
        for bucket in captured.buckets:
            for each in (captured, logits):
                if not each.capture(bucket):
                    raise RuntimeError(each.counts.last_failure)
            inputs = {
                "tokens": torch.arange(bucket.batch),
                "positions": torch.arange(bucket.batch) + bucket.length - bucket.batch - 1,
                "may_end": torch.zeros(bucket.batch, dtype=torch.bool),
                "draws": torch.linspace(0.1, 0.9, bucket.batch),
            }
            plain = partial(captured.step, inputs, bucket.length)
            replayed = partial(captured, inputs, bucket.length)
            with torch.no_grad():
                yield (
                    bucket,
                    plain,
                    replayed,
                    relative_error(logits(inputs, bucket.length), logits.step(inputs, bucket.length)),
                )


def logits_step(engine: Any, like: CapturedStep) -> CapturedStep:
    """The decoder's step of a Sopro engine up to its logits (batch, vocabulary), to be recorded as another is."""

    def step(inputs: Mapping[str, Tensor], length: int) -> Tensor:
        logits: Tensor = engine.networks.decoder.logits(inputs["tokens"], inputs["positions"], engine.cache, length)
        return logits

    return CapturedStep(step, like.inputs, like.batches, like.lengths, like.backend)


def _text(number: int) -> str:
    return SENTENCES[number % len(SENTENCES)]


@contextmanager
def _without_gates(module: Any) -> Iterator[None]:
    """Random weights never say anything that sounds like the onset of speech."""
    kept = {name: getattr(module.audio_ops, name) for name in ("speech_onset", "energy_onset", "trim_trail")}
    module.audio_ops.speech_onset = lambda wav, rate: 0
    module.audio_ops.energy_onset = lambda wav, rate: None
    module.audio_ops.trim_trail = lambda wav, rate: wav
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(module.audio_ops, name, function)
