"""Channels are mixed so that nobody is lost."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.audio.channels import ChannelMixer
from deployments.engines.protocols import Samples

RATE = 16_000


def voice(seed: int, seconds: float = 4.0) -> Samples:
    """Noise that comes and goes like syllables."""
    count = int(seconds * RATE)
    loudness = 0.2 * np.abs(np.sin(np.arange(count) * 2 * np.pi * 2 / RATE + seed))
    noise: Samples = (np.random.default_rng(seed).standard_normal(count) * loudness).astype(np.float32)
    return noise


def mixed(*channels: Samples, block: int = RATE) -> Samples:
    rows = np.stack(channels)
    mixer = ChannelMixer(RATE, len(rows))
    return np.concatenate([mixer.push(rows[:, at : at + block]) for at in range(0, rows.shape[1], block)])


def loudness(samples: Samples) -> float:
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def test_equal_channels_are_one_of_them() -> None:
    a = voice(0)
    np.testing.assert_allclose(mixed(a, a), a, atol=1e-6)
    np.testing.assert_array_equal(mixed(a), a)


@pytest.mark.parametrize("share", [-1.0, -0.4])
def test_opposite_phase_is_not_silent(share: float) -> None:
    a = voice(0)
    np.testing.assert_allclose(mixed(a, share * a), a * (1 - share) / 2, atol=1e-6)


def test_the_phase_may_change_without_a_click_or_a_loss() -> None:
    a = voice(0, 12.0)
    b = np.concatenate([a[: 4 * RATE], -a[4 * RATE : 8 * RATE], a[8 * RATE :]])
    out = mixed(a, b)
    for second in range(12):
        here = slice(second * RATE, (second + 1) * RATE)
        assert loudness(out[here]) > 0.9 * loudness(a[here])


def test_two_speakers_are_both_heard_and_signs_stay() -> None:
    a, b = voice(0), voice(1)
    np.testing.assert_allclose(mixed(a, b), (a + b) / 2, atol=1e-6)


def test_an_unused_channel_does_not_halve_the_level() -> None:
    a = voice(0)
    np.testing.assert_allclose(mixed(np.zeros_like(a), a), a, atol=1e-6)


def test_silence_is_silence() -> None:
    zeros = np.zeros(3 * RATE, np.float32)
    assert not mixed(zeros, zeros).any()


def test_six_channels_of_which_one_is_turned_over() -> None:
    a, faint = voice(0), 0.1 * voice(3)
    out = mixed(a, -a, a + faint, -a + faint, np.zeros_like(a), 0.5 * a)
    assert loudness(out) > 0.85 * loudness(a)
    assert abs(np.corrcoef(out, a)[0, 1]) > 0.99


def test_a_change_of_weights_is_faded() -> None:
    a = np.full(2 * RATE, 0.5, np.float32)
    b = np.concatenate([np.zeros(RATE, np.float32), np.full(RATE, 0.1, np.float32)])
    assert np.abs(np.diff(mixed(a, b))).max() < 0.01
