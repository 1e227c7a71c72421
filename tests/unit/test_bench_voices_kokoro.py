"""The benchmark against Kokoro's package measures every figure, and its distance compares loudness by pitch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from deployments.engines import registry
from deployments.engines.kokoro.vocoder import SAMPLE_RATE
from deployments.engines.protocols import Samples
from serve_app.bench.frame import Sheet
from tests.load import voices_kokoro
from tests.load.voices_kokoro import log_mel


def tone(pitch: float, level: float = 0.1) -> Samples:
    samples: Samples = (level * np.sin(2 * np.pi * pitch * np.arange(SAMPLE_RATE) / SAMPLE_RATE)).astype(np.float32)
    return samples


def test_twice_the_level_is_six_decibels_everywhere() -> None:
    noise = np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    np.testing.assert_allclose(log_mel(0.2 * noise) - log_mel(0.1 * noise), 6.02, atol=0.01)


def test_a_higher_tone_is_in_a_higher_band() -> None:
    bands = [int(log_mel(tone(pitch)).mean(axis=0).argmax()) for pitch in (200, 1000, 5000)]
    assert bands == sorted(bands) and len(set(bands)) == 3
    assert log_mel(np.zeros(SAMPLE_RATE, np.float32)).max() == pytest.approx(-80)


class Stand:
    """Speakers that say a tone a text, half as loud in int8."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def together(self, precision: str, texts: Sequence[str], seed: int = 0) -> list[Samples]:
        self.asked.append(len(texts))
        level = {"float32": 0.2, "int8": 0.1}[precision]
        return [tone(300 + seed, level) for _ in texts]

    def one_by_one(self, texts: Sequence[str]) -> list[Samples]:
        return [tone(300) for _ in texts]


def test_every_figure_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand()
    monkeypatch.setattr(voices_kokoro, "KokoroSpeakers", lambda: stand)
    monkeypatch.setattr(voices_kokoro, "_heard", lambda ear, sound: "nothing")
    monkeypatch.setattr(registry, "load", lambda name, spec: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    sheet = Sheet(voices_kokoro._wanted(voices_kokoro.FULL), lambda text: None)
    voices_kokoro._measure(sheet, voices_kokoro.FULL)
    values = {figure.name: figure for figure in sheet.figures}
    assert all(figure.measured for figure in sheet.figures)
    assert set(stand.asked) >= set(voices_kokoro.FULL.concurrencies)
    assert values["int8, word error rate"].verdict == "not met"
    assert 0 < (values["int8 against float32, log mel distance"].value or 0) <= 6.03
