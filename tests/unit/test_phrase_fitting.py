"""Spoken phrases keep their places: in order, without overlap, and no later than they must be."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.tasks.phrase_fitting import PhraseFit, PhraseFitter
from deployments.tasks.phrases import Phrase

GAP_S = 0.1


def phrases_of(*times: tuple[float, float], until_s: float) -> list[Phrase]:
    """Phrases of a recording by their starts and ends."""
    starts = [*(start for start, _ in times[1:]), until_s]
    return [Phrase(at, "a", *time, after) for at, (time, after) in enumerate(zip(times, starts, strict=True))]


def fitted(phrases: list[Phrase], lengths: list[float], max_speed: float = 1.4) -> list[PhraseFit]:
    fitter = PhraseFitter(max_speed, GAP_S)
    return [fitter.fit(phrase, length) for phrase, length in zip(phrases, lengths, strict=True)]


def test_a_phrase_that_fits_is_spoken_in_its_place_at_its_own_pace() -> None:
    (fit,) = fitted(phrases_of((1.0, 2.0), until_s=4.0), [2.5])
    assert fit == PhraseFit(1.0, 3.5, 1.0, 0.0)


def test_a_longer_one_is_spoken_as_much_faster_as_it_must_be() -> None:
    first, second = fitted(phrases_of((1.0, 2.0), (3.1, 4.0), until_s=9.0), [2.5, 1.0])
    assert first.speed == pytest.approx(1.25)
    assert (first.end_s, second.start_s, second.drift_s) == pytest.approx((3.0, 3.1, 0.0))


def test_what_does_not_fit_moves_the_next_one_which_comes_back() -> None:
    phrases = phrases_of((0.0, 1.0), (2.0, 3.0), (5.0, 6.0), until_s=9.0)
    first, second, third = fitted(phrases, [4.2, 2.0, 1.0], max_speed=1.5)
    assert (first.speed, first.end_s) == pytest.approx((1.5, 2.8))
    assert (second.start_s, second.drift_s) == pytest.approx((2.9, 0.9))
    assert second.speed == 1.0
    assert (third.start_s, third.drift_s) == (5.0, 0.0)


def test_the_last_phrase_ends_with_the_recording() -> None:
    (fit,) = fitted(phrases_of((1.0, 3.0), until_s=3.0), [2.4])
    assert (fit.end_s, fit.speed) == pytest.approx((3.0, 1.2))


def test_a_phrase_without_sound_takes_no_time() -> None:
    first, second = fitted(phrases_of((1.0, 2.0), (3.0, 4.0), until_s=4.0), [0.0, 1.0])
    assert first == PhraseFit(1.0, 1.0, 1.0, 0.0)
    assert second.start_s == 3.0


SECONDS = st.floats(0, 20)


@given(st.lists(st.tuples(SECONDS, SECONDS, SECONDS), min_size=1, max_size=12), SECONDS, st.floats(1, 2))
def test_phrases_are_in_order_and_as_early_as_they_can_be(
    lengths: list[tuple[float, float, float]], rest_s: float, max_speed: float
) -> None:
    """`lengths` are a pause, a phrase after it, and how long the voice takes for that."""
    now_s, times = 0.0, []
    for pause_s, phrase_s, _ in lengths:
        times.append((now_s + pause_s, now_s + pause_s + phrase_s))
        now_s = times[-1][1]
    phrases, spoken = phrases_of(*times, until_s=now_s + rest_s), [length for *_, length in lengths]
    fits = fitted(phrases, spoken, max_speed)
    for fit, phrase, length in zip(fits, phrases, spoken, strict=True):
        assert 1.0 <= fit.speed <= max_speed
        assert fit.end_s - fit.start_s == pytest.approx(length / fit.speed, abs=1e-6)
        assert fit.drift_s == fit.start_s - phrase.start_s >= 0
    for fit, after in pairwise(fits):
        assert fit.end_s <= after.start_s
    earliest_s = 0.0
    for fit, phrase, length in zip(fits, phrases, spoken, strict=True):
        earliest_s = max(phrase.start_s, earliest_s)
        assert fit.start_s == pytest.approx(earliest_s, abs=1e-6)
        earliest_s += length / max_speed + min(GAP_S, phrase.next_s - phrase.end_s)
    if all(
        length <= max(0.0, phrase.next_s - phrase.start_s - min(GAP_S, phrase.next_s - phrase.end_s)) * max_speed
        for phrase, length in zip(phrases, spoken, strict=True)
    ):
        assert fits[-1].end_s <= now_s + rest_s + 1e-6
        assert all(fit.drift_s < 1e-6 for fit in fits)
