"""Sample-rate conversion in pieces."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.audio.resample import Resampler, resample, resampled_length

Float = NDArray[np.float32]

RATES = [(24000, 16000), (44100, 16000), (16000, 48000), (48000, 24000), (8000, 44100)]


def noise(channels: int, samples: int) -> Float:
    sound = np.random.default_rng(7).uniform(-0.5, 0.5, (channels, samples))
    return sound.astype(np.float32)


def in_pieces(sound: Float, source_rate: int, target_rate: int, seed: int = 1, *, prompt: bool = False) -> Float:
    sizes = np.random.default_rng(seed)
    resampler = Resampler(source_rate, target_rate, sound.shape[0], prompt=prompt)
    out, start = [], 0
    while start < sound.shape[1]:
        size = int(sizes.choice([0, 1, 7, 480, 5000]))
        out.append(resampler.push(sound[:, start : start + size]))
        start += size
    return np.concatenate([*out, resampler.finish()], axis=1)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("source_rate", "target_rate"), RATES)
def test_pieces_equal_the_whole(source_rate: int, target_rate: int, channels: int) -> None:
    sound = noise(channels, source_rate + 13)
    pieces, whole = in_pieces(sound, source_rate, target_rate), resample(sound, source_rate, target_rate)
    assert pieces.shape == whole.shape
    np.testing.assert_allclose(pieces, whole, atol=1e-5)


@pytest.mark.parametrize(("source_rate", "target_rate"), RATES)
def test_a_sine_keeps_its_frequency_level_and_length(source_rate: int, target_rate: int) -> None:
    time = np.arange(2 * source_rate) / source_rate
    out = resample((0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32), source_rate, target_rate)
    assert abs(len(out) - 2 * target_rate) <= 1
    spectrum = np.abs(np.fft.rfft(out * np.hanning(len(out))))
    assert abs(float(spectrum.argmax()) * target_rate / len(out) - 440) < 1
    middle = out[target_rate // 2 : -target_rate // 2]
    assert abs(float(middle.std()) * 2**0.5 - 0.5) < 0.002


@pytest.mark.parametrize("source_rate", [8000, 24000, 44100])
def test_a_prompt_filter_keeps_a_sine_in_any_pieces(source_rate: int) -> None:
    time = np.arange(2 * source_rate) / source_rate
    sound = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)[None]
    outs = [in_pieces(sound, source_rate, 16000, seed, prompt=True) for seed in (1, 2)]
    np.testing.assert_allclose(outs[0], outs[1], atol=1e-5)
    assert abs(outs[0].shape[1] - 32000) <= 1
    expected = 0.5 * np.sin(2 * np.pi * 440 * (np.arange(32000) / 16000 - (0.0001 if source_rate > 16000 else 0.0)))
    np.testing.assert_allclose(outs[0][0, 2000:-2000], expected[2000 : outs[0].shape[1] - 2000], atol=0.002)


def test_what_the_target_cannot_carry_is_removed() -> None:
    time = np.arange(48000) / 48000
    out = resample(np.sin(2 * np.pi * 10_000 * time).astype(np.float32), 48000, 16000)
    assert float(np.abs(out[1000:-1000]).max()) < 1e-3


def test_channels_stay_apart() -> None:
    sound = noise(2, 24000)
    sound[1] = 0
    out = in_pieces(sound, 24000, 16000)
    assert float(np.abs(out[0]).max()) > 0.1
    assert not out[1].any()


def test_flat_samples_come_back_flat() -> None:
    sound = noise(1, 4800)[0]
    resampler = Resampler(48000, 16000)
    assert np.concatenate([resampler.push(sound), resampler.finish()]).shape == (1600,)
    assert resample(sound, 48000, 16000).shape == (1600,)


@pytest.mark.parametrize("channels", [1, 2])
def test_equal_rates_hand_samples_through(channels: int) -> None:
    sound = noise(channels, 100)
    resampler = Resampler(24000, 24000, channels)
    assert resampler.push(sound) is sound
    assert resampler.finish().shape == (channels, 0)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_stream_without_samples_ends_empty(channels: int) -> None:
    assert Resampler(24000, 16000, channels).finish().size == 0
    assert resample(np.zeros((channels, 0), np.float32), 24000, 16000).shape == (channels, 0)


def test_wrong_shapes_and_rates_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected \(2, n\)"):
        Resampler(24000, 16000, 2).push(noise(1, 10))
    with pytest.raises(ValueError, match="Cannot resample"):
        Resampler(0, 16000)


@pytest.mark.parametrize("target_rate", [8000, 11025, 16000, 22050, 37123, 44100, 48000])
@pytest.mark.parametrize("source_rate", [8000, 22050, 24000, 44100])
def test_the_length_is_known_before(source_rate: int, target_rate: int) -> None:
    """Also where it would be a whole number and a half, which soxr rounds up or down."""
    for samples in (*range(40), 31200, 10**5 + 7):
        made = resample(np.zeros(samples, np.float32), source_rate, target_rate)
        assert len(made) == resampled_length(samples, source_rate, target_rate)


@pytest.mark.parametrize(("source_rate", "target_rate"), RATES)
def test_pieces_of_a_mono_stream_give_the_same_bits(source_rate: int, target_rate: int) -> None:
    """A stream that a client resumes is made again in other pieces, and must have the same bytes."""
    sound = noise(1, source_rate + 13)
    outs = [in_pieces(sound, source_rate, target_rate, seed) for seed in (1, 2)]
    assert outs[0].tobytes() == outs[1].tobytes() == resample(sound[0], source_rate, target_rate).tobytes()
