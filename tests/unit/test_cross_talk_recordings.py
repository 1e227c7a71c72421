"""2,000 windows and chunks of recordings at the same time, over several engines behind the real step scheduler: each one is heard
and separated as it is alone.

The replicas are those of the service, without Ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.engines.identity.engine import IdentityEngine
from deployments.engines.protocols import (
    Chunk,
    RecognitionOptions,
    RecognitionTraits,
    Segment,
    SeparationEngine,
    Stems,
    Transcript,
    Window,
)
from deployments.replica.recognizer import Recognizer
from deployments.replica.separator import Separator
from tests.unit import test_htdemucs, test_roformer, test_whisper
from tests.unit.recognition_engine_properties import SENTENCES, spoken
from tests.unit.test_cross_talk import replica_of

REQUESTS = 2000
OF_WHISPER, OF_TINY_MODEL = 9, 6
"""Requests of each model with weights; an engine without them gets the rest."""
RATE, SECONDS = 16000, 0.1
ROUNDING = 1e-3
"""What rounding may differ in a batch, as a share of the loudest sample."""
TRAITS = RecognitionTraits(RATE, ("en",), translates=False, max_window_seconds=30.0, batch_windows=16)


class LoudnessEngine:
    """Recognises how loud each window is, which no other one is."""

    traits = TRAITS

    def transcribe(self, windows: Sequence[Window]) -> list[Transcript | Exception]:
        """The loudest sample of each, in words."""
        return [Transcript((Segment(loudness(window.samples), 0.0, SECONDS, 0.0, 0.0),), "en") for window in windows]


def loudness(samples: np.ndarray[Any, Any]) -> str:
    return f"{np.abs(samples).max():.6f}"


def noise(number: int, seconds: float, rate: int, channels: int) -> np.ndarray[Any, Any]:
    """Sound that is unlike that of every other number."""
    samples = np.random.default_rng(number).standard_normal((channels, int(seconds * rate))).astype(np.float32)
    loudest: np.ndarray[Any, Any] = samples / np.abs(samples).max() * np.float32((number + 1) / (REQUESTS + 1))
    return loudest


async def test_each_of_2000_windows_at_once_is_heard_as_it_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    whisper = test_whisper.load()
    replicas = {
        "loudness": await replica_of("loudness", LoudnessEngine(), 16, monkeypatch, Recognizer),
        "whisper": await replica_of("whisper", whisper, 8, monkeypatch, Recognizer),
    }
    sentences = [Window(spoken(text, RATE), RecognitionOptions(language="en")) for text in SENTENCES]
    alone = [answer.text for answer in map(whisper_alone(whisper), sentences)]
    assert len(set(alone)) == len(SENTENCES)
    quiet = [Window(noise(n, SECONDS, RATE, 1)[0], RecognitionOptions()) for n in range(REQUESTS - OF_WHISPER)]
    of_whisper = [replicas["whisper"].transcribe(sentences[n % 3], n) for n in range(OF_WHISPER)]
    of_loudness = [replicas["loudness"].transcribe(window, n) for n, window in enumerate(quiet)]
    heard = await asyncio.gather(*of_whisper, *of_loudness)
    assert [each.text for each in heard[:OF_WHISPER]] == [alone[n % 3] for n in range(OF_WHISPER)]
    assert [each.text for each in heard[OF_WHISPER:]] == [loudness(window.samples) for window in quiet]
    assert_steps_are_shared(replicas)


def whisper_alone(engine: Any) -> Callable[[Window], Transcript]:
    def hear(window: Window) -> Transcript:
        (answer,) = engine.transcribe([window])
        assert isinstance(answer, Transcript), answer
        return answer

    return hear


async def test_each_of_2000_chunks_at_once_is_separated_as_it_is_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines: dict[str, SeparationEngine] = {
        "identity": IdentityEngine(),
        "roformer": test_roformer.TestBandSplit.engine(),
        "htdemucs": test_htdemucs.TestTinyHtdemucs.engine(),
    }
    chunks = {name: chunks_of(engine, name) for name, engine in engines.items()}
    assert sum(map(len, chunks.values())) == REQUESTS
    replicas = {name: await replica_of(name, engine, 4, monkeypatch, Separator) for name, engine in engines.items()}
    alone = {name: [engine.separate([chunk])[0] for chunk in chunks[name]] for name, engine in engines.items()}
    calls = {name: [replicas[name].separate(chunk, chunk.index) for chunk in chunks[name]] for name in engines}
    together = await asyncio.gather(*(asyncio.gather(*each) for each in calls.values()))
    for name, stems in zip(engines, together, strict=True):
        for got, wanted in zip(stems, alone[name], strict=True):
            assert_equal(got, wanted)
    assert_steps_are_shared(replicas)


def chunks_of(engine: SeparationEngine, name: str) -> list[Chunk]:
    """All with different sound."""
    number = REQUESTS - 2 * OF_TINY_MODEL if name == "identity" else OF_TINY_MODEL
    rate = engine.traits.sample_rates[0]
    return [Chunk(noise(n, SECONDS, rate, 2), rate, n) for n in range(number)]


def assert_equal(got: Stems | Exception, wanted: Stems | Exception) -> None:
    assert isinstance(got, Stems) and isinstance(wanted, Stems)
    assert got.index == wanted.index and got.stems.keys() == wanted.stems.keys()
    for stem, samples in wanted.stems.items():
        np.testing.assert_allclose(got.stems[stem], samples, atol=ROUNDING * max(np.abs(samples).max(), 1e-6))


def assert_steps_are_shared(replicas: dict[str, Any]) -> None:
    for name, replica in replicas.items():
        counts = replica._step_metrics.counts
        assert counts.items > 1.5 * counts.steps, f"the requests of {name} did not share steps"
