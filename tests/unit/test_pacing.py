"""The estimated playback position, and how the pace follows it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.gateway.settings import PRESETS, PacingSettings
from serve_app.gateway.speech.pacing import FASTER, LEAST_FACTOR, MOST_FACTOR, SLOWER, ListenerClock, Pacer


def test_nothing_is_played_before_the_first_sound() -> None:
    assert ListenerClock().buffered_seconds(1000.0) == 0.0


def test_the_lead_is_what_was_sent_and_not_yet_played() -> None:
    listener = ListenerClock()
    listener.send(1.0, now_s=10.0)
    listener.send(0.5, now_s=10.2)
    assert listener.buffered_seconds(10.5) == pytest.approx(1.0)
    assert listener.buffered_seconds(12.0) == pytest.approx(-0.5)
    assert listener.underruns == 0


def test_a_player_that_ran_dry_starts_again_with_the_next_sound() -> None:
    listener = ListenerClock()
    listener.send(1.0, now_s=0.0)
    listener.send(1.0, now_s=3.0)
    assert listener.underruns == 1
    assert listener.stalled_seconds == pytest.approx(2.0)
    assert listener.buffered_seconds(3.0) == pytest.approx(1.0)
    assert listener.buffered_seconds(3.5) == pytest.approx(0.5)


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0.01, 2)), min_size=1, max_size=50))
def test_after_every_sound_the_player_has_at_least_that_sound(steps: list[tuple[float, float]]) -> None:
    listener, now = ListenerClock(), 0.0
    for wait, seconds in steps:
        now += wait
        listener.send(seconds, now)
        assert listener.buffered_seconds(now) >= seconds - 1e-6


def test_a_stream_without_sound_is_due_now_and_buffered_sound_counts() -> None:
    pacer = Pacer(PacingSettings())
    assert pacer.buffered_seconds(0.0, 5.0) == 0.0
    pacer.listener.send(1.0, 5.0)
    assert pacer.buffered_seconds(0.25, 5.5) == pytest.approx(0.75)


def test_the_factor_moves_by_steps_and_stays_in_bounds() -> None:
    pacer = Pacer(PacingSettings(capacity_ms=500.0, low_mark=0.3, high_mark=0.8))
    pacer.adapt(0.25)
    assert pacer.factor == 1.0
    pacer.adapt(0.1)
    assert pacer.factor == pytest.approx(FASTER)
    pacer.adapt(0.45)
    assert pacer.factor == pytest.approx(FASTER * SLOWER)
    for _ in range(20):
        pacer.adapt(0.0)
    assert pacer.factor == MOST_FACTOR
    for _ in range(20):
        pacer.adapt(0.5)
    assert pacer.factor == LEAST_FACTOR


def test_the_presets() -> None:
    assert {name: preset.capacity_ms for name, preset in PRESETS.items()} == {
        "low-latency": 200.0,
        "balanced": 500.0,
        "high-stability": 1000.0,
    }
