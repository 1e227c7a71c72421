"""Faster and slower speech at the same pitch."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from deployments.audio.stretch import Stretcher
from deployments.errors import MotetError

Float = NDArray[np.float32]

RATE = 24000
TEMPOS = [0.25, 0.3, 0.5, 0.8, 1.5, 1.7, 2.0, 3.0, 4.0]


def sine(frequency: float, seconds: float) -> Float:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(RATE * seconds)) / RATE)).astype(np.float32)


def stretch(sound: Float, tempo: float, piece: int) -> Float:
    stretcher = Stretcher(RATE, tempo)
    out = [stretcher.push(sound[start : start + piece]) for start in range(0, len(sound), piece)]
    return np.concatenate([*out, stretcher.finish()])


@pytest.mark.parametrize("tempo", TEMPOS)
def test_duration_follows_the_tempo(tempo: float) -> None:
    for seconds in (0.02, 0.3, 5.0):
        sound = sine(220, seconds)
        assert len(stretch(sound, tempo, 2400)) == round(len(sound) / tempo)


@pytest.mark.parametrize("tempo", TEMPOS)
def test_events_happen_when_the_tempo_says(tempo: float) -> None:
    sound = np.zeros(5 * RATE, np.float32)
    sound[3 * RATE : 4 * RATE] = sine(220, 1)
    heard = np.flatnonzero(np.abs(stretch(sound, tempo, 2400)) > 0.1) / RATE
    assert heard[0] == pytest.approx(3 / tempo, abs=0.06 * max(1.0, 1 / tempo))
    assert heard[-1] == pytest.approx(4 / tempo, abs=0.06 * max(1.0, 1 / tempo))


@pytest.mark.parametrize("tempo", TEMPOS)
@pytest.mark.parametrize("frequency", [110.0, 440.0])
def test_pitch_and_level_stay(tempo: float, frequency: float) -> None:
    out = stretch(sine(frequency, 4), tempo, 2400)
    spectrum = np.abs(np.fft.rfft(out * np.hanning(len(out))))
    assert float(spectrum.argmax()) * RATE / len(out) == pytest.approx(frequency, rel=0.02)
    middle = out[len(out) // 4 : -len(out) // 4]
    assert float(middle.std()) * 2**0.5 == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize("tempo", TEMPOS)
def test_parts_equal_the_whole(tempo: float) -> None:
    sound = sine(220, 2) * np.linspace(0.1, 1, 2 * RATE, dtype=np.float32)
    whole = stretch(sound, tempo, len(sound))
    for piece in (333, 480, 5000):
        np.testing.assert_array_equal(stretch(sound, tempo, piece), whole)


@pytest.mark.parametrize("tempo", TEMPOS)
@pytest.mark.parametrize("seconds", [0.1, 2.0])
def test_sound_comes_out_when_it_goes_in(tempo: float, seconds: float) -> None:
    """However long the parts are, no more than 0.3 s stays inside."""
    stretcher, out = Stretcher(RATE, tempo), 0
    for number in range(1, 6):
        out += stretcher.push(sine(220, seconds)).size
        assert out / RATE > number * seconds / tempo - 0.3


@pytest.mark.parametrize("tempo", TEMPOS)
def test_a_sound_after_the_end_of_another_begins_anew(tempo: float) -> None:
    first, second = sine(220, 0.7), sine(330, 1)
    stretcher = Stretcher(RATE, tempo)
    for sound in (first, second):
        out = np.concatenate([stretcher.push(sound), stretcher.finish()])
        np.testing.assert_array_equal(out, stretch(sound, tempo, 480))


@pytest.mark.parametrize("tempo", TEMPOS)
@pytest.mark.parametrize("frequency", [110.0, 440.0])
def test_nothing_clicks_between_two_sounds(tempo: float, frequency: float) -> None:
    """Where each comes and goes softly, as speech does, no step is larger than those of the wave itself."""
    sound = sine(frequency, 0.777)
    soft = np.linspace(0, 1, RATE // 50, dtype=np.float32)
    sound[: len(soft)] *= soft
    sound[-len(soft) :] *= soft[::-1]
    stretcher = Stretcher(RATE, tempo)
    out = np.concatenate([part for _ in range(2) for part in (stretcher.push(sound), stretcher.finish())])
    assert float(np.abs(np.diff(out)).max()) < 1.2 * float(np.abs(np.diff(sound)).max())


@pytest.mark.parametrize("tempo", TEMPOS)
def test_a_sound_that_is_cut_in_its_middle_ends_softly(tempo: float) -> None:
    for seconds in (0.3, 0.777, 1.374):
        assert abs(float(stretch(sine(220, seconds), tempo, 480)[-1])) < 0.01


def test_tempo_one_is_exact() -> None:
    sound = sine(220, 0.1)
    stretcher = Stretcher(RATE, 1.0)
    assert stretcher.push(sound) is sound
    assert stretcher.finish().size == 0


def test_empty_pieces_and_empty_streams() -> None:
    stretcher = Stretcher(RATE, 2.0)
    assert stretcher.push(np.zeros(0, np.float32)).size == 0
    assert stretcher.finish().size == 0


def test_a_moment_shorter_than_one_window_is_kept() -> None:
    out = stretch(sine(220, 0.01), 2.0, 100)
    assert len(out) == 0.005 * RATE
    assert float(np.abs(out).max()) > 0.4


@pytest.mark.parametrize("tempo", [0.0, 0.2, 4.1, -1.0, float("nan")])
def test_tempos_outside_the_range_are_refused(tempo: float) -> None:
    with pytest.raises(MotetError) as caught:
        Stretcher(RATE, tempo)
    assert caught.value.failure.kind == "invalid"
    assert caught.value.failure.code == "speed_out_of_range"
    assert "0.25 to 4" in str(caught.value)
