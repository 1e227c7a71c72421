"""The load that a replica reports."""

from __future__ import annotations

import pytest

from deployments.replica.load import FIRST_SOUND_MEMORY_S, FIRST_SOUND_P95, QUEUED, WORKS, ReplicaLoad


def test_what_is_still_to_be_made_is_queued_until_it_is_made_or_given_up() -> None:
    load = ReplicaLoad(lambda: 0.0)
    with load.work(10.0) as first, pytest.raises(RuntimeError), load.work(5.0) as second:
        first.made(4.0)
        second.made(9.0)
        assert load.stats() == {QUEUED: 6.0, WORKS: 2.0, FIRST_SOUND_P95: 0.0}
        raise RuntimeError
    assert load.stats() == {QUEUED: 0.0, WORKS: 0.0, FIRST_SOUND_P95: 0.0}


def test_idle_time_counts_from_the_end_of_the_last_work() -> None:
    now_s = 0.0
    load = ReplicaLoad(lambda: now_s)
    now_s = 3.0
    assert load.idle_seconds == 3.0
    with load.work(1.0), load.work(1.0):
        now_s = 5.0
        assert load.idle_seconds == 0.0
    now_s = 7.0
    assert load.idle_seconds == 2.0


def test_the_95th_percentile_is_of_the_last_first_sounds() -> None:
    now_s = 0.0
    load = ReplicaLoad(lambda: now_s)
    load.first_sound(60.0)
    now_s = FIRST_SOUND_MEMORY_S + 1
    for milliseconds in range(100, 0, -1):
        load.first_sound(milliseconds / 1000)
    assert load.stats()[FIRST_SOUND_P95] == pytest.approx(0.095)
