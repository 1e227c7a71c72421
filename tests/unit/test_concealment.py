"""Concealment begins and ends without a click, and fades out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deployments.engines.protocols import Samples
from serve_app.gateway.speech.concealment import Concealment

RATES = (8000, 16000, 24000, 48000)


def voice(rate: int, pitch_hz: float, seconds: float, seed: int, breath: float = 0.0) -> Samples:
    """Six harmonics of a pitch with their own phases, and some noise."""
    random = np.random.default_rng(seed)
    time_s = np.arange(int(seconds * rate)) / rate
    harmonics = [k for k in range(1, 7) if k * pitch_hz < rate / 4]
    tones = [np.sin(2 * np.pi * k * pitch_hz * time_s + random.uniform(0, 6.28)) / k for k in harmonics]
    samples: Samples = (0.3 * np.sum(tones, axis=0) + breath * random.normal(size=len(time_s))).astype(np.float32)
    return samples


def noise(rate: int, seconds: float, seed: int) -> Samples:
    return np.random.default_rng(seed).uniform(-0.8, 0.8, int(seconds * rate)).astype(np.float32)


@st.composite
def sounds(draw: st.DrawFn) -> tuple[int, Samples]:
    rate, seed = draw(st.sampled_from(RATES)), draw(st.integers(0, 99))
    if draw(st.booleans()):
        return rate, noise(rate, 0.4, seed)
    return rate, voice(rate, draw(st.floats(80, 1000)), 0.4, seed, draw(st.sampled_from([0.0, 0.02])))


def largest_step(samples: Samples) -> float:
    return float(np.abs(np.diff(samples)).max())


def heard(rate: int, before: Samples, gap: list[int], after: list[Samples]) -> Samples:
    """What a listener gets: sound, a gap that is concealed in parts, sound again."""
    concealment = Concealment(rate)
    parts = [concealment.resume(before)]
    concealment.sent(before)
    for count in gap:
        parts.append(concealment.conceal(count))
        concealment.sent(parts[-1])
    for block in after:
        parts.append(concealment.resume(block))
        concealment.sent(parts[-1])
    return np.concatenate(parts)


@settings(max_examples=150)
@given(sounds(), st.floats(0.1, 0.3), st.floats(0.001, 0.2), st.integers(0, 50))
def test_no_step_is_larger_than_those_of_the_sound(
    sound: tuple[int, Samples], left_at_s: float, gap_s: float, skipped: int
) -> None:
    rate, samples = sound
    end, gap = int(left_at_s * rate), int(gap_s * rate)
    before, after = samples[:end], samples[end + skipped :]
    whole = heard(rate, before, [gap], [after])
    around = whole[end - 1 : end + gap + int(0.02 * rate)]
    assert largest_step(around) <= 1.5 * largest_step(samples)


@pytest.mark.parametrize("rate", RATES)
def test_a_voice_goes_on_as_it_was(rate: int) -> None:
    """Over the first two periods the extension is the sound that would have come, but for the fade."""
    samples = voice(rate, 125.0, 0.4, seed=1)
    concealment = Concealment(rate)
    concealment.sent(samples[: rate // 5])
    count = 2 * rate // 125
    expected = samples[rate // 5 : rate // 5 + count]
    level = 1 - np.sin(np.pi / 2 * np.arange(count) / (0.06 * rate)) ** 2
    np.testing.assert_allclose(concealment.conceal(count), expected * level, atol=0.02)


@settings(max_examples=60)
@given(sounds())
def test_energy_decays_to_silence(sound: tuple[int, Samples]) -> None:
    rate, samples = sound
    concealment = Concealment(rate)
    concealment.sent(samples)
    concealed = concealment.conceal(rate // 2)
    blocks = concealed[: int(0.06 * rate)].reshape(3, -1).astype(np.float64)
    first, second, third = (blocks**2).mean(axis=1)
    assert first > second > third > 0
    assert first < 2 * float((samples[-int(0.06 * rate) :].astype(np.float64) ** 2).mean())
    assert np.abs(concealed).max() <= np.abs(samples).max()
    assert not concealed[int(0.06 * rate) :].any()


@settings(max_examples=60)
@given(sounds(), st.lists(st.integers(0, 3000), max_size=5), st.lists(st.integers(0, 300), max_size=5))
def test_it_does_not_matter_in_which_parts_it_is_asked(
    sound: tuple[int, Samples], gaps: list[int], blocks: list[int]
) -> None:
    rate, samples = sound
    assume(sum(gaps) > 0)
    before, after = samples[: rate // 5], samples[rate // 5 :]
    once = heard(rate, before, [sum(gaps)], [after])
    parts = np.split(after, np.minimum(np.cumsum(blocks, dtype=int), len(after)))
    np.testing.assert_array_equal(heard(rate, before, gaps, parts), once)


@pytest.mark.parametrize("rate", RATES)
def test_after_the_fade_in_nothing_is_changed(rate: int) -> None:
    samples = noise(rate, 0.3, seed=2)
    concealment = Concealment(rate)
    np.testing.assert_array_equal(concealment.resume(samples), samples)
    concealment.sent(samples)
    concealment.conceal(rate // 10)
    resumed = concealment.resume(samples)
    fade = rate // 100
    assert resumed.dtype == np.float32
    assert np.abs(resumed[0]) < 0.01
    assert (np.abs(resumed[:fade]) <= np.abs(samples[:fade])).all()
    np.testing.assert_array_equal(resumed[fade:], samples[fade:])
    np.testing.assert_array_equal(concealment.resume(samples), samples)


def test_samples_are_not_changed_in_place() -> None:
    samples = noise(8000, 0.1, seed=3)
    kept = samples.copy()
    heard(8000, samples, [100], [samples])
    np.testing.assert_array_equal(samples, kept)


def test_nothing_sent_is_silence() -> None:
    concealment = Concealment(24000)
    concealed = concealment.conceal(5000)
    assert concealed.shape == (5000,) and concealed.dtype == np.float32
    assert not concealed.any()


@pytest.mark.parametrize("count", [0, 1, 2, 50, 400])
def test_a_history_shorter_than_it_looks_at_is_enough(count: int) -> None:
    samples = voice(24000, 200.0, 0.1, seed=4)[:count]
    concealment = Concealment(24000)
    concealment.sent(samples)
    concealed = concealment.conceal(2000)
    assert np.isfinite(concealed).all()
    assert np.abs(concealed).max() <= np.abs(samples).max(initial=0.0)
    if count:
        assert abs(concealed[0] - samples[-1]) <= 0.05


def test_a_second_gap_is_concealed_with_what_came_between() -> None:
    concealment = Concealment(24000)
    concealment.sent(voice(24000, 100.0, 0.2, seed=5))
    concealment.conceal(4800)
    between = concealment.resume(voice(24000, 250.0, 0.2, seed=6))
    concealment.sent(between)
    second = concealment.conceal(4800)
    fresh = Concealment(24000)
    fresh.sent(between)
    np.testing.assert_array_equal(second, fresh.conceal(4800))
    assert second.any()
