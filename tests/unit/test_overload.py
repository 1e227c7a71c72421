"""Overload is told from a queue that drains, and keys that ask for too much from the others. The clock is moved by hand, or is
that of a simulation."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.gateway.routing.overload import Overload, QueueLook, current_rates, fair_share
from serve_app.gateway.settings import OverloadSettings
from serve_app.planning.outcome import TrafficCounts
from serve_app.planning.simulation import simulate
from tests.unit.planning_plans import plan

SPEED = 10.0
SHORT = QueueLook(wait_s=0.0, speed=SPEED, listeners=2, own_listeners=1, starves=False)
LONG = QueueLook(wait_s=3.0, speed=SPEED, listeners=4, own_listeners=2, starves=False)


def overload(**settings: Any) -> Overload:
    """A placement whose first audio usually takes a tenth of a second."""
    found = Overload(OverloadSettings(**settings))
    found.note_first_sound(0.1)
    return found


def ask(
    found: Overload, per_second: float, look: QueueLook, key: str | None = None, since_s: float = 0.0
) -> list[bool]:
    """Whether each request of five seconds of audio, over twenty seconds, is refused."""
    refused = []
    for number in range(int(20 * per_second)):
        now_s = since_s + number / per_second
        found.note_request(key, 5.0, look.speed, now_s)
        refused.append(found.refuses(key, look, now_s))
    return refused


def test_a_long_queue_that_will_drain_refuses_nobody() -> None:
    assert not any(ask(overload(), 1.4, LONG))


def test_more_than_is_made_is_refused_once_the_queue_is_long() -> None:
    found = overload()
    assert not any(ask(found, 6.0, SHORT))
    assert all(ask(found, 6.0, LONG, since_s=20.0)) and found.lasts


def test_during_an_overload_a_short_queue_takes_requests() -> None:
    found = overload()
    ask(found, 6.0, LONG)
    assert not any(ask(found, 6.0, SHORT, since_s=20.0)) and found.lasts


def test_during_an_overload_too_many_listeners_keep_out_others() -> None:
    found = overload()
    ask(found, 6.0, LONG)
    crowd = QueueLook(wait_s=0.0, speed=SPEED, listeners=20, own_listeners=20, starves=False)
    assert all(ask(found, 6.0, crowd, since_s=20.0))


def test_an_overload_ends_with_the_demand() -> None:
    found = overload()
    ask(found, 6.0, LONG)
    refused = ask(found, 1.0, LONG, since_s=20.0)
    assert refused[0] and not any(refused[-5:]) and not found.lasts


def test_a_key_within_its_share_is_not_refused_for_another_key() -> None:
    found = overload()
    refused = {"greedy": 0, "modest": 0}
    for number in range(200):
        now_s = number / 10
        for key in ("greedy",) * 5 + ("modest",) * (number % 20 == 0):
            found.note_request(key, 5.0, SPEED, now_s)
            refused[key] += found.refuses(key, LONG, now_s)
    assert refused["greedy"] > 900 and refused["modest"] == 0


def test_keys_that_ask_for_as_much_as_ever_are_not_refused_when_another_begins_to_ask_for_more() -> None:
    found, refused = overload(), 0
    for number in range(6000):
        now_s = number / 100
        for modest in range(9):  # each a request every seven seconds: 6.4 of the 10 seconds of audio a second
            if number % 700 == 77 * modest:
                found.note_request(f"modest-{modest}", 5.0, SPEED, now_s)
                refused += found.refuses(f"modest-{modest}", LONG if now_s > 20 else SHORT, now_s)
        if now_s > 20 and number % 16 == 0:
            found.note_request("greedy", 5.0, SPEED, now_s)
            found.refuses("greedy", LONG, now_s)
    assert found.lasts and refused == 0


def test_what_keys_ask_for_is_all_that_is_asked_for() -> None:
    usual = {"as ever": 2.0, "begins": 0.0, "more": 1.0}
    rates = current_rates(usual, {"as ever": 0.0, "begins": 8.0, "more": 4.0}, 9.0)
    assert rates == pytest.approx({"as ever": 2.0, "begins": 4.0, "more": 3.0})
    assert current_rates(usual, dict.fromkeys(usual, 0.0), 6.0) == pytest.approx(
        {"as ever": 4.0, "begins": 0.0, "more": 2.0}
    )
    assert current_rates(usual, {**usual, "begins": 5.0}, 1.5) == pytest.approx(
        {"as ever": 1.0, "begins": 0.0, "more": 0.5}
    )


def test_a_placement_that_stands_still_is_waited_for() -> None:
    still = QueueLook(wait_s=9.0, speed=0.1, listeners=30, own_listeners=30, starves=True, silent_s=2.0)
    assert not any(ask(overload(), 6.0, still))


def test_before_the_first_audio_nothing_is_known() -> None:
    found = Overload(OverloadSettings())
    assert not any(ask(found, 6.0, LONG))


def test_a_book_is_not_an_overload() -> None:
    found = overload()
    ask(found, 0.5, SHORT)
    found.note_request(None, 3600.0, SPEED, 20.0)
    assert not found.refuses(None, LONG, 21.0)


def test_requests_without_sound_are_no_demand() -> None:
    found = overload()
    for number in range(100):
        found.note_request("a", 0.0, SPEED, number / 10)
        assert not found.refuses("a", LONG, number / 10)


def test_replicas_that_were_added_are_noticed() -> None:
    found = overload()
    ask(found, 6.0, LONG)
    faster = QueueLook(wait_s=0.2, speed=40.0, listeners=4, own_listeners=4, starves=False)
    assert not any(ask(found, 6.0, faster, since_s=20.0)[-20:])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20), st.floats(0.1, 1000))
def test_fair_shares_use_all_of_the_capacity_and_no_more(rates: list[float], capacity: float) -> None:
    share = fair_share(rates, capacity)
    got = sum(min(rate, share) for rate in rates)
    if share == math.inf:
        assert sum(rates) <= capacity * (1 + 1e-9)
    else:
        assert got == pytest.approx(capacity) and max(rates) > share


CAPACITY = 19.0
"""Requests in a second: 51 seconds of audio, of 2.7 seconds each."""


def simulated(*traffic: tuple[float, int], duration_s: float = 60.0, gateways: int = 1) -> list[TrafficCounts]:
    """What becomes of requests in a simulated service that makes eight streams together: for each traffic its share of the
    capacity, and its number of keys."""
    text = {"mean_characters": 40.0, "spread": 0.6}
    speech = [
        {"model": "voice", "streams_at_once": CAPACITY * share * 40 / 15, "text": text, "keys": keys}
        for share, keys in traffic
    ]
    settings = plan(
        engine={"step_ms": {1: 50.0}, "chunk_seconds_of_audio": 0.32},
        placement={"max_ongoing_requests": 500, "max_queued_requests": 1000},
        steps={"max_batch_size": 8},
        duration_s=duration_s,
        warm_up_s=20.0,
        traffic={"speech": speech},
        gateways={"replicas": gateways},
    )
    return list(simulate(settings).traffic.values())


def p95_ms(counts: TrafficCounts) -> float:
    found = counts.first.quantile_ms(0.95)
    assert found is not None
    return found


@pytest.mark.parametrize("gateways", [1, 4])
def test_three_times_the_capacity_does_not_delay_who_is_admitted(gateways: int) -> None:
    (low,), (usual,), (over,) = (simulated((share, 0), gateways=gateways) for share in (0.1, 0.7, 3.0))
    assert usual.refused_percent <= 1
    assert p95_ms(over) <= 1.5 * p95_ms(low)
    assert over.good / 40 >= 0.9 * 0.9 * CAPACITY and over.gaps_percent < 3


@pytest.mark.parametrize("gateways", [1, 2])
def test_a_greedy_key_does_not_slow_the_others(gateways: int) -> None:
    alone, _ = simulated((0.63, 9), (0.07, 1), gateways=gateways)
    beside, greedy = simulated((0.63, 9), (3.0, 1), gateways=gateways)
    assert p95_ms(beside) <= 1.2 * p95_ms(alone)
    assert beside.good / beside.asked >= 0.95
    assert greedy.refused_percent > 80
