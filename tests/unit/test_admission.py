"""Admission keeps its limits for any sequence of events, and `Retry-After` is correct."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from deployments.errors import Failure, MotetError
from serve_app.gateway.errors import error_response
from serve_app.gateway.routing.admission import (
    Admission,
    Ticket,
)
from serve_app.gateway.routing.placement_queue import MAX_TURN, SUSTAINED_MEMORY_S
from serve_app.gateway.settings import AdmissionSettings, OverloadSettings

TICK_S = 0.05
SETTINGS = AdmissionSettings(
    max_queued_seconds_of_audio=100,
    max_queued_seconds_of_audio_per_key=60,
    max_wait_s=1e6,
    speed_memory_s=5,
    first_speed=4,
    short_seconds_of_audio=10,
    max_retry_after_s=3600,
    overload=OverloadSettings(wait_in_first_sounds=1e9, listeners_share=1e9),  # see test_overload.py
)


class Clock:
    """Stands still until it is told to move."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Engine:
    """Makes `speed` audio seconds per second, for all open tickets in equal shares."""

    def __init__(self, clock: Clock, speed: float) -> None:
        self.clock, self.speed = clock, speed
        self.tickets: list[Ticket] = []

    def run(self, seconds: float) -> None:
        """Lets that much time pass; what is done leaves."""
        end = self.clock.now_s + seconds
        while self.clock.now_s < end - 1e-9:
            self.clock.now_s += TICK_S
            for ticket in self.tickets:
                ticket.record_made(min(ticket.left, self.speed * TICK_S / len(self.tickets)))
            for ticket in [ticket for ticket in self.tickets if ticket.left <= 1e-9]:
                ticket.complete()
                self.tickets.remove(ticket)


def admission(clock: Callable[[], float], **changes: float) -> Admission:
    return Admission(AdmissionSettings(**{**SETTINGS.model_dump(), **changes}), clock)


def measured(clock: Clock, speed: float, **changes: float) -> tuple[Admission, Engine]:
    """An admission that has seen an engine of this speed for long enough."""
    guarded, engine = admission(clock, **changes), Engine(clock, speed)
    engine.tickets.append(guarded.admit(["m@cpu"], None, 50 * speed))
    engine.run(50)
    assert not engine.tickets
    return guarded, engine


def refusal(guarded: Admission, placement: str, key: str | None, seconds: float) -> Failure:
    with pytest.raises(MotetError) as caught:
        guarded.admit([placement], key, seconds)
    return caught.value.failure


def wait_told(failure: Failure) -> float:
    """What a client reads in the header, in seconds."""
    return float(error_response(failure).headers["retry-after"])


PLACEMENTS = st.sampled_from([["m@cpu"], ["n@cpu"], ["m@cpu", "n@cpu"]])
KEYS = st.sampled_from([None, "a", "b"])
EVENTS = st.one_of(
    st.tuples(st.just("admit"), PLACEMENTS, KEYS, st.floats(0, 300)),
    st.tuples(st.just("record_made"), st.integers(0, 30), st.floats(0, 40)),
    st.tuples(st.just("close"), st.integers(0, 30)),
    st.tuples(st.just("complete"), st.integers(0, 30)),
    st.tuples(st.just("pass"), st.floats(0, 100)),
)


def play(guarded: Admission, clock: Clock, tickets: list[Ticket], event: tuple[Any, ...]) -> None:
    """One event; refusals are part of the game."""
    kind, *details = event
    if kind == "admit":
        try:
            tickets.append(guarded.admit(*details))
        except MotetError as error:
            assert error.failure.code == "queue_full"
            assert error.failure.retry_after_s is not None
            assert 0 < error.failure.retry_after_s <= SETTINGS.max_retry_after_s
    elif kind == "pass":
        clock.now_s += details[0]
    elif tickets:
        ticket = tickets[details[0] % len(tickets)]
        getattr(ticket, kind)(*details[1:])


@settings(max_examples=150)
@given(st.lists(EVENTS, max_size=60))
def test_limits_hold_for_any_sequence(events: list[tuple[Any, ...]]) -> None:
    clock = Clock()
    guarded = admission(clock)
    tickets: list[Ticket] = []
    per_queue = SETTINGS.max_queued_seconds_of_audio
    per_key = SETTINGS.max_queued_seconds_of_audio_per_key
    for event in events:
        play(guarded, clock, tickets, event)
        for name, report in guarded.snapshot().items():
            here = [t for t in tickets if t.open and t.queue is guarded._queues[name]]
            assert report.open == len(here)
            assert report.queued_seconds >= 0 and report.speed > 0 and report.wait_s >= 0
            assert all(ticket.left >= 0 for ticket in here)
            assert sum(min(t.left, per_queue) for t in here) <= per_queue + SETTINGS.short_seconds_of_audio + 1e-5
        for key in ("a", "b"):
            held = sum(min(t.left, per_key) for t in tickets if t.open and t.key == key)
            assert held <= per_key + SETTINGS.short_seconds_of_audio + 1e-5
    for ticket in tickets:
        ticket.close()
        ticket.close()
    assert guarded.keys == 0
    assert all(r.open == 0 and r.queued_seconds == 0 and r.wait_s == 0 for r in guarded.snapshot().values())


@settings(max_examples=40)
@given(
    st.floats(0.5, 20),
    st.lists(st.tuples(KEYS, st.floats(0.1, 150)), min_size=1, max_size=12),
    st.tuples(KEYS, st.floats(0.1, 300)),
    st.floats(0, 5),
)
def test_who_comes_back_when_told_is_admitted(
    speed: float, others: list[tuple[str | None, float]], late: tuple[str | None, float], head_start_s: float
) -> None:
    clock = Clock()
    guarded, engine = measured(clock, speed)
    for key, seconds in others:
        try:
            engine.tickets.append(guarded.admit(["m@cpu"], key, seconds))
        except MotetError as error:
            assert error.failure.kind == "overloaded"
    engine.run(head_start_s)
    try:
        guarded.admit(["m@cpu"], *late)
        assume(False)
    except MotetError as error:
        engine.run(wait_told(error.failure))
    assert guarded.admit(["m@cpu"], *late).open


def test_the_retry_time_is_not_much_longer_than_it_takes() -> None:
    clock = Clock()
    guarded, engine = measured(clock, 5.0)
    engine.tickets.append(guarded.admit(["m@cpu"], None, 90))
    told = refusal(guarded, "m@cpu", None, 60).retry_after_s
    assert told == pytest.approx((90 + 60 - 100) / 5 * 1.1, rel=0.05)
    engine.run(8)
    assert refusal(guarded, "m@cpu", None, 60).retry_after_s == pytest.approx(2 * 1.1, rel=0.1)


def test_a_key_that_waits_in_two_queues_is_told_when_either_has_room() -> None:
    guarded = admission(Clock(), max_queued_seconds_of_audio_per_key=90)
    guarded.admit(["m@cpu"], "a", 60)
    guarded.admit(["n@cpu"], "a", 30)
    # 20 s must go. Either queue, at 4 audio seconds per second, has made them in 5 s.
    assert refusal(guarded, "m@cpu", "a", 20).retry_after_s == pytest.approx(5 * 1.1)
    # 80 s must go, more than either holds: at the latest when both are done.
    assert refusal(guarded, "m@cpu", "a", 80).retry_after_s == pytest.approx(60 / 4 * 1.1)


@pytest.mark.parametrize("reader_speed", [0.1, 1.0, 8.0])
def test_first_sounds_wait_no_longer_than_promised(reader_speed: float) -> None:
    """A turn takes half a second. How fast sound is read, once it is made, must not matter for the wait of others."""
    clock = Clock()
    guarded = admission(clock, max_wait_s=1.0)
    for _ in range(60):
        with_sound = guarded.admit(["m@cpu"], None, 6)
        for _ in range(2):
            with_sound.start_waiting()
            clock.now_s += 0.5
            with_sound.record_made(3)
            with_sound.stop_waiting()
        clock.now_s += 6 / reader_speed
        with_sound.complete()
    waiting = [guarded.admit(["m@cpu"], None, 6) for _ in range(3)]
    failure = refusal(guarded, "m@cpu", None, 6)
    assert failure.retry_after_s == pytest.approx((3 * 0.5 - 1) * 1.1, rel=0.1)
    clock.now_s += 0.5
    waiting[0].record_made(6)
    waiting[0].stop_waiting()
    assert guarded.admit(["m@cpu"], None, 6).open


def test_who_runs_dry_first_goes_before_a_new_request() -> None:
    """Five listeners whose next sound is asked for; a turn takes a twentieth of a second."""
    clock = Clock()
    guarded = admission(clock, first_speed=20.0)
    listeners = [guarded.admit(["m@cpu"], None, 20) for _ in range(5)]
    for listener in listeners:
        listener.record_made(1)
    assert guarded.snapshot()["m@cpu"].wait_s == 0
    for listener in listeners:
        listener.start_waiting()
    assert guarded.snapshot()["m@cpu"].wait_s == 0
    clock.now_s += 1
    one_turn_s = 1 / guarded._queues["m@cpu"].turns.value
    assert guarded.snapshot()["m@cpu"].wait_s == pytest.approx(5 * one_turn_s)
    listeners[0].stop_waiting()
    listeners[1].close()
    assert guarded.snapshot()["m@cpu"].wait_s == pytest.approx(3 * one_turn_s)


def test_a_reader_that_stops_does_not_look_like_a_slow_engine() -> None:
    clock = Clock()
    guarded = admission(clock, max_wait_s=0.5)
    stopped = guarded.admit(["m@cpu"], None, 60)
    stopped.record_made(2)
    stopped.stop_waiting()
    clock.now_s += 1000
    assert guarded.snapshot()["m@cpu"].wait_s == 0
    assert guarded.admit(["m@cpu"], None, 5).open


def test_nobody_ahead_means_no_wait_however_slow_the_engine_was() -> None:
    clock = Clock()
    guarded = admission(clock, max_wait_s=0.1)
    stuck = guarded.admit(["m@cpu"], None, 5)
    clock.now_s += 10_000
    assert refusal(guarded, "m@cpu", None, 5).retry_after_s
    stuck.close()
    assert guarded.admit(["m@cpu"], None, 5).open


@pytest.mark.parametrize("frozen_s", [10.0, 40.0, 1e6])
def test_an_engine_that_stands_still_makes_nobody_wait_for_hours(frozen_s: float) -> None:
    """Ten listeners wait for their first sound, and a turn took a fifth of a second before."""
    clock = Clock()
    guarded, _ = measured(clock, 5.0, max_wait_s=1.0, max_retry_after_s=60.0)
    waiting = [guarded.admit(["m@cpu"], None, 3) for _ in range(5)]
    clock.now_s += frozen_s
    told = [refusal(guarded, "m@cpu", None, 3).retry_after_s or 0.0 for _ in range(3)]
    assert told == [told[0]] * 3 and 0 < told[0] <= 60
    for ticket in waiting:  # the engine is back
        clock.now_s += 0.2
        ticket.record_made(3)
        ticket.stop_waiting()
    assert guarded.admit(["m@cpu"], None, 3).open
    assert guarded.snapshot()["m@cpu"].speed > 1


def test_no_one_is_sent_away_for_longer_than_the_settings_say() -> None:
    guarded = admission(Clock(), max_retry_after_s=7.0)
    guarded.admit(["m@cpu"], None, 100)
    failure = refusal(guarded, "m@cpu", None, 90)
    assert failure.retry_after_s == 7.0
    assert failure.remedy == "Try again in 7 s."


@pytest.mark.parametrize("turn_s", [1.0, 15.0, 40.0])
def test_an_engine_that_is_slow_is_learned_however_long_its_turns(turn_s: float) -> None:
    clock = Clock()
    guarded = admission(clock)
    assert turn_s > MAX_TURN * SETTINGS.speed_memory_s or turn_s < 10
    for _ in range(12):
        ticket = guarded.admit(["m@cpu"], None, 3)
        clock.now_s += turn_s
        ticket.record_made(3)
        ticket.complete()
    assert guarded._queues["m@cpu"].turns.value == pytest.approx(1 / turn_s, rel=0.2)


@given(st.floats(0, 1e7))
def test_idle_time_does_not_lower_the_speed(idle_s: float) -> None:
    clock = Clock()
    guarded, _ = measured(clock, 3.0)
    before = guarded.snapshot()["m@cpu"]
    clock.now_s += idle_s
    assert guarded.snapshot()["m@cpu"] == before
    assert before.speed == pytest.approx(3.0, rel=0.05)
    guarded.admit(["m@cpu"], None, 1).close()
    assert guarded.snapshot()["m@cpu"].speed == pytest.approx(before.speed)


def test_time_with_an_open_ticket_and_no_sound_does_lower_it() -> None:
    clock = Clock()
    guarded, _ = measured(clock, 3.0)
    guarded.admit(["m@cpu"], None, 1)
    clock.now_s += 10
    assert guarded.snapshot()["m@cpu"].speed < 1


def test_before_anything_was_measured_the_assumed_speed_holds() -> None:
    guarded = admission(Clock())
    guarded.admit(["m@cpu"], None, 100)
    assert refusal(guarded, "m@cpu", None, 40).retry_after_s == pytest.approx(40 / 4 * 1.1)


def test_a_key_at_its_limit_does_not_keep_out_another() -> None:
    guarded = admission(Clock())
    guarded.admit(["m@cpu"], "a", 50)
    assert "This API key" in refusal(guarded, "m@cpu", "a", 30).cause
    assert "This API key" in refusal(guarded, "n@cpu", "a", 30).cause
    assert guarded.admit(["m@cpu"], "b", 30).open
    assert guarded.admit(["m@cpu"], None, 20).open
    assert guarded.queued_seconds_of("a") == 50
    assert guarded.snapshot()["m@cpu"].refused == 1


def test_a_placement_that_makes_less_than_is_played_comes_after_others() -> None:
    clock = Clock()
    guarded, slow = admission(clock, max_queued_seconds_of_audio=1e6), Engine(clock, speed=5)
    both = ["m@slow", "m@fast"]
    slow.tickets += [guarded.admit(both, None, 60) for _ in range(10)]
    assert {ticket.placement for ticket in slow.tickets} == {"m@slow"}
    slow.run(10)  # each hears half of what it plays
    assert guarded.admit(both, None, 5).placement == "m@fast"
    assert guarded.admit(["m@slow"], None, 5).placement == "m@slow"  # there is no other
    for ticket in slow.tickets:
        ticket.close()
    clock.now_s += SUSTAINED_MEMORY_S
    guarded.admit(["m@slow"], None, 5).close()
    first = [guarded.admit(both, None, 5).placement for _ in range(9)]
    assert first[:6] == ["m@slow"] * 6  # twice what it could serve: some replicas may have been added
    assert first[-1] == "m@fast"
    clock.now_s += 1e6 * SUSTAINED_MEMORY_S
    assert guarded.admit(both, None, 5).placement == "m@slow"


def test_listeners_with_audio_left_leave_room_for_others() -> None:
    clock = Clock()
    guarded, engine = admission(clock, max_queued_seconds_of_audio=1e6), Engine(clock, speed=20)
    engine.tickets += [guarded.admit(["m@a", "m@b"], None, 60) for _ in range(10)]
    engine.run(10)
    assert guarded.admit(["m@a", "m@b"], None, 5).placement == "m@a"


def test_placements_do_not_share_a_queue() -> None:
    guarded = admission(Clock())
    guarded.admit(["m@cpu"], None, 100)
    refusal(guarded, "m@cpu", None, 50)
    assert guarded.admit(["n@cpu"], None, 50).open
    assert guarded.snapshot()["n@cpu"].refused == 0


@pytest.mark.parametrize("key", [None, "a"])
def test_a_book_does_not_keep_out_a_chat_reply(key: str | None) -> None:
    guarded = admission(Clock())
    book = guarded.admit(["m@cpu"], key, 5000)
    replies = [guarded.admit(["m@cpu"], key, 4) for _ in range(2)]
    refusal(guarded, "m@cpu", key, 11)
    # A third reply fits as soon as each has got 2/3 s, at 4 audio seconds per second for three.
    assert refusal(guarded, "m@cpu", key, 4).retry_after_s == pytest.approx(1 * 3 / 4 * 1.1)
    replies[0].close()
    assert guarded.admit(["m@cpu"], key, 4).open
    assert book.open


def test_a_client_that_stops_reading_keeps_nobody_out() -> None:
    clock = Clock()
    guarded = admission(clock)
    book = guarded.admit(["m@cpu"], None, 5000)
    book.record_made(1)
    book.stop_waiting()
    refusal(guarded, "m@cpu", None, 40)  # it may only be between two reads
    clock.now_s += SETTINGS.paused_after_s
    assert guarded.snapshot()["m@cpu"].queued_seconds == SETTINGS.paused_seconds_of_audio
    assert guarded.admit(["m@cpu"], None, 40).open
    book.start_waiting()
    assert guarded.snapshot()["m@cpu"].queued_seconds > 4000
    assert book.open


def test_texts_that_are_written_far_ahead_keep_nobody_out() -> None:
    guarded = admission(Clock())
    sessions = [guarded.admit(["m@cpu"], None, 0, reach=5) for _ in range(10)]
    for session in sessions:
        session.extend(5000)
    assert guarded.snapshot()["m@cpu"].queued_seconds == 50
    assert guarded.admit(["m@cpu"], None, 4).open
    assert guarded.admit(["m@cpu"], None, 40).open
    for session in sessions:
        session.record_made(4996)
    assert guarded.snapshot()["m@cpu"].queued_seconds == 10 * 4 + 44


def test_who_is_kept_out_by_texts_far_ahead_is_told_when_they_are_made() -> None:
    guarded = admission(Clock())
    sessions = [guarded.admit(["m@cpu"], None, 0, reach=10) for _ in range(10)]
    for session in sessions:
        session.extend(30)
    # 20 s fit when each session has 2 s less than its reach to go: after 22 s for each of ten, 4 a second.
    assert refusal(guarded, "m@cpu", None, 20).retry_after_s == pytest.approx(22 * 10 / 4 * 1.1)


def test_a_text_that_goes_on_is_held_to_what_its_key_may_have_queued() -> None:
    guarded = admission(Clock())
    sessions = [guarded.admit(["m@cpu"], "a", 0, reach=20) for _ in range(4)]
    for session in sessions[:3]:
        session.extend(500)
    with pytest.raises(MotetError) as caught:
        sessions[3].extend(11)
    assert (caught.value.failure.kind, caught.value.failure.code) == ("overloaded", "queue_full")
    assert "This API key already waits for 60 s" in caught.value.failure.cause
    assert sessions[3].left == 0
    assert guarded.snapshot()["m@cpu"].refused == 1
    sessions[0].extend(500)  # what is queued stays the same
    sessions[3].extend(10)  # a chat reply is not refused because of books
    guarded.admit(["m@cpu"], "b", 0).extend(11)
    sessions[0].close()
    sessions[3].extend(11)


def test_a_request_longer_than_the_limit_gets_in_where_nothing_waits() -> None:
    guarded = admission(Clock())
    small = guarded.admit(["m@cpu"], None, 20)
    assert refusal(guarded, "m@cpu", None, 5000).retry_after_s == pytest.approx(20 / 4 * 1.1)
    small.close()
    assert guarded.admit(["m@cpu"], None, 5000).open


def test_predictions_follow_what_earlier_ones_turned_out_to_be() -> None:
    clock = Clock()
    guarded = admission(clock)
    for _ in range(10):
        ticket = guarded.admit(["m@cpu"], None, 20)
        clock.now_s += 1
        ticket.record_made(40)
        ticket.complete()
    assert guarded.admit(["m@cpu"], None, 20).left == pytest.approx(40, rel=0.05)
    assert guarded.admit(["n@cpu"], None, 20).left == 20


def test_a_client_that_leaves_early_teaches_nothing_about_length() -> None:
    guarded = admission(Clock())
    ticket = guarded.admit(["m@cpu"], None, 40)
    ticket.record_made(1)
    ticket.close()
    ticket.complete()
    ticket.record_made(100)
    assert guarded.admit(["m@cpu"], None, 40).left == 40
    assert ticket.made_seconds == 1


def test_keys_are_forgotten_with_their_last_ticket() -> None:
    guarded = admission(Clock())
    for number in range(1000):
        guarded.admit(["m@cpu"], f"key {number}", 1).close()
    assert guarded.keys == 0
    guarded.admit(["m@cpu"], "a", 1)
    assert guarded.keys == 1


def test_the_answer_says_what_is_wrong_and_when_to_return() -> None:
    guarded = admission(Clock())
    guarded.admit(["m@cpu"], None, 100)
    failure = refusal(guarded, "m@cpu", None, 40)
    response = error_response(failure)
    assert response.status_code == 429
    assert response.headers["retry-after"] == str(math.ceil(failure.retry_after_s or 0)) == "11"
    error = json.loads(bytes(response.body))["error"]
    assert error["code"] == "queue_full"
    assert error["message"] == ("100 s of audio wait to be made, and this request adds 40 s. Try again in 11 s.")


@pytest.mark.parametrize(("told", "header"), [(None, "1"), (0.2, "1"), (1.01, "2"), (59.0, "59")])
@pytest.mark.parametrize("kind", ["overloaded", "unavailable"])
def test_the_header_is_in_whole_seconds(kind: Any, told: float | None, header: str) -> None:
    assert error_response(Failure(kind, "Busy.", retry_after_s=told)).headers["retry-after"] == header


def test_other_answers_have_no_such_header() -> None:
    assert "retry-after" not in error_response(Failure("invalid", "Wrong.")).headers


@pytest.mark.parametrize("field", list(SETTINGS.model_dump()))
def test_settings_must_make_sense(field: str) -> None:
    with pytest.raises(ValidationError):
        AdmissionSettings(**{**SETTINGS.model_dump(), field: -1})


def test_what_one_placement_refuses_another_takes() -> None:
    guarded = admission(Clock())
    guarded.admit(["m@mlx"], None, 100)
    ticket = guarded.admit(["m@mlx", "m@cpu"], None, 90)
    assert ticket.placement == "m@cpu"
    with pytest.raises(MotetError) as caught:
        guarded.admit(["m@mlx", "m@cpu"], None, 50)
    # The cpu's queue has room sooner: 40 s of audio must go there, 50 s on the other.
    assert caught.value.failure.retry_after_s == pytest.approx(40 / 4 * 1.1)


@pytest.mark.parametrize("key", [None, "a"])
def test_what_is_left_of_a_request_waits_where_it_is_answered(key: str | None) -> None:
    guarded = admission(Clock())
    ticket = guarded.admit(["m@mlx"], key, 50)
    ticket.record_made(20)
    ticket.placement = "m@cpu"
    queued = {name: report.queued_seconds for name, report in guarded.snapshot().items()}
    assert queued == {"m@mlx": 0, "m@cpu": 30}
    assert key is None or guarded.queued_seconds_of(key) == 30
    ticket.close()
    ticket.placement = "m@mlx"
    assert all(report.open == 0 for report in guarded.snapshot().values())
    assert guarded.keys == 0


def test_jobs_are_queued_apart_from_requests() -> None:
    reported: list[tuple[str, int, float]] = []
    settings = AdmissionSettings(max_queued_seconds_of_audio=60.0)
    guarded = Admission(settings, Clock(), lambda *report: reported.append(report))
    job = guarded.admit_job("m@mlx", 10_000.0)
    job.record_made(20.0)
    job.placement = "m@cpu"
    assert (job.placement, job.made_seconds) == ("m@cpu", 20.0)
    assert (guarded.snapshot(), reported) == ({}, [])
    guarded.admit(["m@cpu"], None, 60.0)
    assert guarded.snapshot()["m@cpu"].queued_seconds == 60.0
    job.close()
    assert not job.open


def test_gateways_together_let_wait_what_one_would() -> None:
    settings = AdmissionSettings(max_queued_seconds_of_audio=120, max_queued_seconds_of_audio_per_key=60)
    several = [Admission(settings.among(4), lambda: 0.0) for _ in range(4)]
    limits = {"alice": 60, "bob": 60, "carol": 0}  # alice and bob have filled the placement
    for key, seconds in limits.items():
        for gateway in several:
            with suppress(MotetError):
                for _ in range(10):
                    gateway.admit(["tone"], key, 15.0)
        assert sum(gateway.queued_seconds_of(key) for gateway in several) == seconds
    assert settings.among(1) == settings


def test_what_was_measured_of_a_placement_is_forgotten_with_its_model() -> None:
    clock = Clock()
    changes: list[tuple[str, int]] = []
    guarded = Admission(
        SETTINGS, clock, changed=lambda placement, requests, seconds: changes.append((placement, requests))
    )
    open_one, first = guarded.admit(["m@cpu"], "key", 20), guarded.admit(["m@cpu"], None, 20)
    guarded.admit_job("m@cpu", 20).complete()
    clock.now_s += 10
    first.record_made(20)
    first.complete()
    learned = guarded.snapshot()["m@cpu"]
    guarded.forget_placement("m@cpu")
    guarded.forget_placement("m@cpu")
    assert guarded.snapshot() == {} and changes[-1] == ("m@cpu", 0)
    assert [vars(guarded)[name] for name in ("_queues", "_job_queues", "_overloads")] == [{}] * 3
    new = guarded.admit(["m@cpu"], None, 20)  # another model of that name
    assert guarded.snapshot()["m@cpu"] != learned and changes[-1] == ("m@cpu", 1)
    open_one.record_made(5)  # a request of the former one ends later
    open_one.complete()
    assert guarded.keys == 0 and changes[-1] == ("m@cpu", 1)
    assert list(guarded.open_tickets()) == [new]
