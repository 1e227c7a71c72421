"""Windows cover the recording exactly and are cut at quiet places."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.audio.windows import WindowCutter
from deployments.engines.protocols import Samples
from deployments.settings import WindowSettings

RATE = 1000
SETTINGS = WindowSettings(window_s=3.0, min_window_s=2.0, windows_in_flight=2, max_audio_s=1000.0)


def windows_of(samples: Samples, block: int) -> list[tuple[float, Samples]]:
    cutter = WindowCutter(RATE, SETTINGS)
    cut = [window for at in range(0, len(samples), block) for window in cutter.push(samples[at : at + block])]
    return cut + cutter.finish()


@given(length=st.integers(0, 20_000), block=st.integers(1, 5_000), seed=st.integers(0, 9))
@settings(max_examples=60)
def test_windows_are_the_recording(length: int, block: int, seed: int) -> None:
    samples = np.random.default_rng(seed).standard_normal(length).astype(np.float32)
    windows = windows_of(samples, block)
    together = np.concatenate([w for _, w in windows]) if windows else np.zeros(0, np.float32)
    np.testing.assert_array_equal(together, samples)
    starts = np.cumsum([0, *(len(w) for _, w in windows)])[:-1] / RATE
    np.testing.assert_allclose([start for start, _ in windows], starts)
    assert all(len(w) <= SETTINGS.window_s * RATE for _, w in windows)
    assert all(len(w) >= SETTINGS.min_window_s * RATE for _, w in windows[:-1])


@pytest.mark.parametrize("quiet_at", [2.2, 2.5, 2.8])
def test_the_cut_falls_into_the_pause(quiet_at: float) -> None:
    samples = np.random.default_rng(0).standard_normal(5 * RATE).astype(np.float32)
    samples[int((quiet_at - 0.1) * RATE) : int((quiet_at + 0.1) * RATE)] *= 0.001
    _, first = windows_of(samples, 500)[0]
    assert len(first) / RATE == pytest.approx(quiet_at, abs=0.1)


def test_of_equally_quiet_places_the_latest_is_cut() -> None:
    _, first = windows_of(np.zeros(10 * RATE, np.float32), 500)[0]
    assert len(first) / RATE > 2.9


def test_blocks_do_not_matter() -> None:
    samples = np.random.default_rng(1).standard_normal(20_000).astype(np.float32)
    whole, pieces = windows_of(samples, 20_000), windows_of(samples, 77)
    assert [start for start, _ in whole] == [start for start, _ in pieces]
