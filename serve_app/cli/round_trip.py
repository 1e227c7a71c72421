"""Quantizes a model, and measures it by a round trip from text to speech to text.

A recognition model hears what Motet's own voice says; what a speech model says is heard by Motet's own Whisper. Both ends
are the same before and after, so the difference is the quantized model's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from deployments.audio.resample import resample
from deployments.engines.protocols import RecognitionOptions, Samples, SpeechRequest, Window
from deployments.engines.registry import Task
from deployments.errors import fail
from deployments.tasks.in_process_speech import speak_here
from deployments.text.sample_sentences import SENTENCES
from deployments.weights import evaluate, quantize
from deployments.weights.quantize import Evaluation, EvaluationTarget, QuantizationOrder, QuantizedModel
from serve_app.cli import local
from serve_app.config import AppConfig

WINDOW_SECONDS = 28.0
"""Sentences are put together up to this length: Whisper hears 30 s at once, however little is in them."""
GAP_SECONDS = 0.4
RATE = 16_000


@dataclass
class RoundTrip:
    """Measures trials with the voice and the ears of a configuration, each with the same words."""

    app: AppConfig
    sentences: Sequence[str] = SENTENCES
    _spoken: list[tuple[str, Samples]] = field(default_factory=list)

    def measure(self, of: EvaluationTarget) -> Evaluation:
        """All figures of a model. Raises `MotetError`."""
        with tempfile.TemporaryDirectory(prefix="motet-trial-") as folder:
            texts, found = TRIPS[of.task](self, of, Path(folder))
        return Evaluation(
            evaluate.disk_bytes(of.folder),
            found.memory_bytes,
            found.peak_bytes,
            found.load_seconds,
            found.speed,
            _wrong(texts, found.heard),
        )

    def _heard(self, of: EvaluationTarget, folder: Path) -> tuple[list[str], evaluate.EvaluationResult]:
        """A recognition model's trip."""
        self._spoken = self._spoken or list(self._windows())
        sounds = [_kept(folder / f"{number}.npy", samples) for number, (_, samples) in enumerate(self._spoken)]
        return [text for text, _ in self._spoken], evaluate.run(of, sounds, RATE, ())

    def _windows(self) -> Iterator[tuple[str, Samples]]:
        """The sentences, spoken by the configuration's voice, as windows with what they say."""
        voice = local.load_model(self.app, None, "speech").engine
        texts: list[str] = []
        parts: list[Samples] = []
        seconds = 0.0
        for sentence in self.sentences:
            chunks = speak_here(SpeechRequest((sentence,), voice.traits.default_voice), voice)
            samples = resample(np.concatenate([c.samples for c in chunks]), voice.traits.sample_rate, RATE)
            if seconds + len(samples) / RATE > WINDOW_SECONDS:
                yield " ".join(texts), np.concatenate(parts)
                texts, parts, seconds = [], [], 0.0
            texts.append(sentence)
            parts += [samples, np.zeros(int(GAP_SECONDS * RATE), np.float32)]
            seconds += len(samples) / RATE + GAP_SECONDS
        yield " ".join(texts), np.concatenate(parts)

    def _said(self, of: EvaluationTarget, folder: Path) -> tuple[list[str], evaluate.EvaluationResult]:
        """A speech model's trip."""
        sounds = [folder / f"{number}.npy" for number in range(len(self.sentences))]
        found = evaluate.run(of, sounds, 0, self.sentences)
        ears = local.load_model(self.app, None, "transcription").engine
        heard = []
        for sound in sounds:
            samples = resample(np.load(sound), found.sample_rate, ears.traits.sample_rate)
            (result,) = ears.transcribe([Window(samples, RecognitionOptions(language="en"))])
            if isinstance(result, Exception):
                raise result
            heard.append(result.text)
        return list(self.sentences), replace(found, heard=tuple(heard))


Trip = Callable[[RoundTrip, EvaluationTarget, Path], tuple[list[str], evaluate.EvaluationResult]]
TRIPS: Mapping[Task, Trip] = {"transcription": RoundTrip._heard, "speech": RoundTrip._said}


def quantize_model(
    order: QuantizationOrder, app: AppConfig, progress: Callable[[str], None], sentences: int | None = None
) -> QuantizedModel:
    """Quantizes a model and measures it with the first `sentences`, or all. Raises `MotetError`: see `quantize.quantize`."""
    return quantize.quantize(order, RoundTrip(app, SENTENCES[:sentences]).measure, progress)


def table_of(done: QuantizedModel) -> Any:
    """The figures before and after, for a terminal."""
    from rich.table import Table

    table = Table("", "before", "after", "change", title=f"{done.engine}: {done.out}")
    for name, text, before, after in rows_of(done.before, done.after):
        table.add_row(name, text(before), text(after), f"{after / before - 1:+.1%}" if before else "")
    rates = done.before.word_error_rate, done.after.word_error_rate
    table.add_row(
        "round-trip word error rate", *(f"{rate:.2%}" for rate in rates), f"{done.increase * 100:+.2f} points"
    )
    return table


def rows_of(before: Evaluation, after: Evaluation) -> Iterator[tuple[str, Callable[[float], str], float, float]]:
    """Every figure but the words: its name, how it is written, and its two values."""

    def megabytes(value: float) -> str:
        return f"{value / 1e6:.1f} MB"

    yield "weights on disk", megabytes, before.disk_bytes, after.disk_bytes
    yield "memory when loaded", megabytes, before.memory_bytes, after.memory_bytes
    yield "peak memory", megabytes, before.peak_bytes, after.peak_bytes
    yield "loaded in", lambda value: f"{value:.2f} s", before.load_seconds, after.load_seconds
    yield "times real time", lambda value: f"{value:.2f}", before.speed, after.speed


def _kept(file: Path, samples: Samples) -> Path:
    np.save(file, samples)
    return file


def _wrong(texts: Sequence[str], heard: Sequence[str]) -> float:
    try:
        from deployments.text.word_error_rate import errors
    except ImportError as error:
        remedy = f"{quantize.INSTALL} '.[bench]'"
        raise fail("unavailable", f"Counting wrong words needs a library: {error}.", remedy) from error
    return errors(texts, heard).rate
