"""Loudness: known values of BS.1770, and speech that reaches its target whatever parts it comes in."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deployments.audio.loudness import FIRST_SECONDS, Leveller, LoudnessMeter, loudness_of

Float = NDArray[np.float32]
RATE = 24_000


def sine(seconds: float, peak: float, rate: int = RATE) -> Float:
    time = np.arange(int(seconds * rate)) / rate
    return (peak * np.sin(2 * np.pi * 997 * time)).astype(np.float32)


def phrase(seconds: float, level: float, seed: int = 0) -> Float:
    """Noise in syllables of changing loudness, with a pause at the end."""
    noise = np.random.default_rng(seed).standard_normal(int(seconds * RATE))
    time = np.arange(len(noise)) / RATE
    syllables = 0.2 + np.abs(np.sin(2 * np.pi * 1.7 * time)) * (0.8 + 0.2 * np.sin(2 * np.pi * 0.3 * time))
    syllables[-RATE // 5 :] = 0
    return (level * noise * syllables).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 22_050, 24_000, 48_000])
def test_a_full_sine_has_the_loudness_of_the_recommendation(rate: int) -> None:
    """BS.1770-4: a sine of 997 Hz at full scale in one channel is -3.01 LKFS."""
    assert loudness_of(sine(3.0, 1.0, rate), rate) == pytest.approx(-3.01, abs=0.06)
    assert loudness_of(sine(3.0, 0.1, rate), rate) == pytest.approx(-23.01, abs=0.06)


def test_pauses_do_not_count() -> None:
    loud = phrase(4.0, 0.1)
    with_pauses = np.concatenate([loud, np.zeros(6 * RATE, np.float32), loud])
    alone = loudness_of(loud, RATE)
    assert alone is not None
    assert loudness_of(with_pauses, RATE) == pytest.approx(alone, abs=0.3)


def test_silence_has_no_loudness_and_a_short_sound_has_one() -> None:
    assert loudness_of(np.zeros(RATE, np.float32), RATE) is None
    assert loudness_of(np.zeros(0, np.float32), RATE) is None
    assert LoudnessMeter(RATE).lufs is None
    assert loudness_of(sine(0.1, 0.1), RATE) == pytest.approx(-23.01, abs=0.2)


def levelled(leveller: Leveller, pieces: list[Float], voice: str = "ada") -> list[Float]:
    return [leveller.push(piece, voice, ends=True) for piece in pieces]


@pytest.mark.parametrize("level", [0.005, 0.05, 0.3])
@pytest.mark.parametrize("target", [-30.0, -23.0, -16.0])
def test_speech_reaches_its_target(level: float, target: float) -> None:
    pieces = [phrase(seconds, level, seed) for seed, seconds in enumerate((1.5, 4.0, 2.2, 6.0))]
    out = np.concatenate(levelled(Leveller(RATE, target), pieces))
    assert loudness_of(out, RATE) == pytest.approx(target, abs=0.7)
    assert np.abs(out).max() <= 1.0


def test_pieces_shorter_than_a_block_are_levelled_too() -> None:
    pieces = [np.zeros(RATE // 5, np.float32), *(sine(0.15, 0.3) for _ in range(10))]
    out = levelled(Leveller(RATE, -30.0), pieces)
    assert not out[0].any()
    assert loudness_of(np.concatenate(out[1:]), RATE) == pytest.approx(-30.0, abs=0.5)


def test_pieces_of_a_voice_keep_their_balance_and_voices_get_the_same_loudness() -> None:
    leveller = Leveller(RATE, -23.0)
    quiet, loud = phrase(3.0, 0.02), phrase(3.0, 0.2, 1)
    for _ in range(2):
        for voice, sound in (("quiet", quiet), ("loud", loud)):
            (out,) = levelled(leveller, [sound], voice)
            assert loudness_of(out, RATE) == pytest.approx(-23.0, abs=0.5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40_000), max_size=8), st.sampled_from([0.004, 0.2]))
def test_the_parts_of_a_piece_do_not_change_the_sound(cuts: list[int], level: float) -> None:
    pieces = [phrase(1.4, level), phrase(4.0, level, 1), phrase(0.2, level, 2)]
    whole = levelled(Leveller(RATE, -16.0), pieces)
    in_parts = Leveller(RATE, -16.0)
    for piece, expected in zip(pieces, whole, strict=True):
        borders = sorted({0, *(min(cut, len(piece)) for cut in cuts), len(piece)})
        out = [in_parts.push(piece[a:b], "ada", ends=b == len(piece)) for a, b in pairwise(borders)]
        np.testing.assert_array_equal(np.concatenate(out), expected)


def test_only_the_beginning_is_held_back() -> None:
    leveller = Leveller(RATE, -16.0)
    part = phrase(1.0, 0.1)
    given_back = [len(leveller.push(part, "ada", ends=False)) / RATE for _ in range(5)]
    assert given_back == [0.0, 0.0, FIRST_SECONDS, 1.0, 1.0]
    assert len(leveller.push(part[:0], "ada", ends=True)) == 0
    assert len(leveller.push(part, "ada", ends=False)) == len(part)


def test_silence_stays_silent_and_nothing_is_boosted_without_bounds() -> None:
    (out,) = levelled(Leveller(RATE, -16.0), [np.zeros(RATE, np.float32)])
    assert not out.any()
    (faint,) = levelled(Leveller(RATE, -10.0), [phrase(3.0, 1e-4)])
    assert np.abs(faint).max() < 0.02
