"""Models of transformers on a card: the same texts as on a CPU, alone and in a batch, and in half precision a text at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers", reason="the extra `transformers` is not installed")

from deployments.engines import registry
from deployments.engines.hf_recognition.engine import HfRecognition
from deployments.engines.hf_recognition.streaming_engine import HfStreamingRecognition
from deployments.engines.protocols import EngineSpec, RecognitionOptions, Transcript, Window
from tests.unit.hf_recognition_models import WRITERS
from tests.unit.streaming_engine_properties import Talk, hear

RATE = 16_000
OPTIONS = RecognitionOptions(language="en")


@pytest.fixture(params=sorted(WRITERS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return WRITERS[request.param](tmp_path)


def loaded(folder: Path, device: str, dtype: str) -> HfRecognition:
    spec = EngineSpec("tiny", str(folder), device, 1, {"most_tokens": 24, "dtype": dtype})
    engine = registry.load("hf_recognition", spec)
    assert isinstance(engine, HfRecognition)
    return engine


def windows() -> list[Window]:
    """Noise of three durations: random weights hear something in it."""
    random = np.random.default_rng(0)
    noises = (random.standard_normal(int(seconds * RATE)).astype(np.float32) * 0.1 for seconds in (3.6, 2.7, 2.6))
    return [Window(noise, OPTIONS) for noise in noises]


def texts(made: Sequence[Transcript]) -> list[str]:
    return [transcript.text for transcript in made]


def test_a_card_writes_what_a_cpu_writes_alone_and_in_a_batch(folder: Path) -> None:
    expected = texts(loaded(folder, "cpu", "float32").recognize(windows(), OPTIONS))
    engine = loaded(folder, "cuda", "float32")
    assert texts(engine.recognize(windows(), OPTIONS)) == expected
    assert [engine.recognize([window], OPTIONS)[0].text for window in windows()] == expected


def test_the_default_precision_of_a_card_writes_a_text(folder: Path) -> None:
    assert any(texts(loaded(folder, "cuda", "auto").recognize(windows(), OPTIONS)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_card_streams_what_a_cpu_streams(folder: Path, dtype: str) -> None:
    """In half precision, a text at all."""
    here, card = loaded(folder, "cpu", "float32"), loaded(folder, "cuda", dtype)
    if not isinstance(here, HfStreamingRecognition) or not isinstance(card, HfStreamingRecognition):
        pytest.skip("The family does not stream.")
    expected = [Talk(here, window.samples) for window in windows()]
    made = [Talk(card, window.samples) for window in windows()]
    hear(here, *expected)
    hear(card, *made)
    if dtype == "float32":
        assert [talk.texts[-1].committed for talk in made] == [talk.texts[-1].committed for talk in expected]
    else:
        assert any(talk.texts[-1].committed for talk in made)
