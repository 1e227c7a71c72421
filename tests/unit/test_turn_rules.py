"""Turns of probabilities of speech, on probabilities that are made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from deployments.audio.voice_activity import FRAME
from serve_app.gateway.live.turn_rules import (
    SpeechPaused,
    SpeechStarted,
    SpeechStopped,
    TurnEvent,
    TurnRule,
    TurnToJudge,
)
from serve_app.gateway.live.turn_settings import SemanticVad, ServerVad, TurnSettings

SPEECH, PERHAPS, BETWEEN, SILENCE = 0.9, 0.55, 0.4, 0.1


def run(rule: TurnRule, frames: list[float], blocks: list[int], over: float | None = None) -> list[TurnEvent]:
    """The events of frames that come in blocks; every question is answered with `over`, before the next block."""
    events: list[TurnEvent] = []
    at = 0
    for block in [*blocks, len(frames)]:
        events += rule.push(frames[at : at + block])
        at += block
        while rule.question is not None:
            events += rule.answer(over)
    return events


def test_a_turn_has_its_padding_before_and_ends_where_speech_ended() -> None:
    frames = [SILENCE] * 20 + [SPEECH] * 30 + [SILENCE] * 16
    assert run(TurnRule(ServerVad()), frames, []) == [
        SpeechStarted(20 * FRAME, 20 * FRAME - 4800),
        SpeechPaused(50 * FRAME),
        SpeechStopped(50 * FRAME),
    ]
    assert run(TurnRule(ServerVad()), frames[:-1], [])[-1] == SpeechPaused(50 * FRAME)


def test_speech_starts_with_a_sure_frame_or_two_and_pauses_with_the_fourth_of_silence() -> None:
    assert TurnRule(ServerVad()).push([SPEECH]) == [SpeechStarted(0, 0)]
    rule = TurnRule(ServerVad())
    assert rule.push([PERHAPS]) == []
    assert rule.push([PERHAPS]) == [SpeechStarted(0, 0)]
    assert rule.push([SILENCE] * 3) == []
    assert rule.push([SILENCE]) == [SpeechPaused(2 * FRAME)]


@pytest.mark.parametrize("click", [[PERHAPS], [PERHAPS, SILENCE, PERHAPS], [BETWEEN] * 9, [BETWEEN, PERHAPS, BETWEEN]])
def test_a_click_starts_no_turn(click: list[float]) -> None:
    assert run(TurnRule(ServerVad()), [*click, *[SILENCE] * 20] * 3, []) == []


def test_a_short_pause_ends_no_turn_and_each_pause_is_reported() -> None:
    pause = [SILENCE] * 10
    frames = [SPEECH] * 5 + pause + [SPEECH] + pause + [SPEECH]
    assert run(TurnRule(ServerVad()), frames, []) == [
        SpeechStarted(0, 0),
        SpeechPaused(5 * FRAME),
        SpeechPaused(16 * FRAME),
    ]


def test_a_turn_does_not_reach_into_the_one_before() -> None:
    settings = ServerVad(silence_duration_ms=100, prefix_padding_ms=1000)
    frames = [SPEECH] * 10 + [SILENCE] * 5 + [SPEECH] * 10
    assert run(TurnRule(settings), frames, [])[-1] == SpeechStarted(15 * FRAME, 10 * FRAME)


def test_without_a_least_silence_a_turn_ends_with_its_first_silent_frame() -> None:
    events = run(TurnRule(ServerVad(silence_duration_ms=0)), [SPEECH] * 3 + [SILENCE], [])
    assert events == [SpeechStarted(0, 0), SpeechStopped(3 * FRAME)]


def test_the_threshold_counts() -> None:
    frames = [0.6] * 10 + [SILENCE] * 20
    assert run(TurnRule(ServerVad(threshold=0.7)), frames, []) == []
    assert len(run(TurnRule(ServerVad(threshold=0.5)), frames, [])) == 3


def test_a_finished_turn_is_judged_once_and_ends_at_once() -> None:
    rule = TurnRule(SemanticVad())
    assert rule.push([SPEECH] * 10 + [SILENCE] * 6) == [SpeechStarted(0, 0), SpeechPaused(10 * FRAME)]
    assert rule.question == TurnToJudge(0, 16 * FRAME)
    assert rule.answer(0.97) == [SpeechStopped(10 * FRAME)]
    assert rule.question is None


@pytest.mark.parametrize(("eagerness", "seconds"), [("high", 2), ("medium", 4), ("auto", 4), ("low", 8)])
def test_an_unfinished_turn_waits_as_long_as_the_eagerness_says(eagerness: str, seconds: int) -> None:
    settings = SemanticVad.model_validate({"type": "semantic_vad", "eagerness": eagerness})
    needed = -(-seconds * 16_000 // FRAME)
    for silent, stops in ((needed - 1, 0), (needed, 1)):
        events = run(TurnRule(settings), [SPEECH] * 10 + [SILENCE] * silent, [], over=0.1)
        assert events.count(SpeechStopped(10 * FRAME)) == stops


def test_each_pause_is_judged() -> None:
    rule = TurnRule(SemanticVad())
    rule.push([SPEECH] * 10 + [SILENCE] * 6)
    assert rule.answer(0.1) == []
    rule.push([SPEECH] * 4 + [SILENCE] * 6)
    assert rule.question == TurnToJudge(0, 26 * FRAME)
    assert rule.answer(0.9) == [SpeechStopped(20 * FRAME)]


def test_what_comes_before_the_answer_is_decided_after_it() -> None:
    rule = TurnRule(SemanticVad())
    rule.push([SPEECH] * 10 + [SILENCE] * 6)
    assert rule.push([SPEECH] * 5) == []
    assert rule.answer(0.9) == [SpeechStopped(10 * FRAME), SpeechStarted(16 * FRAME, 10 * FRAME)]


def test_a_turn_that_cannot_be_judged_ends_after_half_a_second() -> None:
    for silent, stops in ((15, 0), (16, 1)):
        events = run(TurnRule(SemanticVad()), [SPEECH] * 10 + [SILENCE] * silent, [], over=None)
        assert events.count(SpeechStopped(10 * FRAME)) == stops


@given(
    frames=st.lists(st.sampled_from([SPEECH, SPEECH, BETWEEN, SILENCE, SILENCE, SILENCE]), max_size=120),
    blocks=st.lists(st.integers(0, 20), max_size=30),
    settings=st.sampled_from([ServerVad(), ServerVad(silence_duration_ms=64), SemanticVad(eagerness="high")]),
    over=st.sampled_from([0.0, 1.0, None]),
)
def test_events_do_not_depend_on_blocks(
    frames: list[float], blocks: list[int], settings: ServerVad | SemanticVad, over: float | None
) -> None:
    assert run(TurnRule(settings), frames, blocks, over) == run(TurnRule(settings), frames, [], over)


@given(frames=st.lists(st.sampled_from([SPEECH, BETWEEN, SILENCE]), max_size=200))
def test_turns_follow_each_other(frames: list[float]) -> None:
    turn, last = False, 0
    for event in run(TurnRule(ServerVad(silence_duration_ms=96)), frames, []):
        assert turn is not isinstance(event, SpeechStarted)
        at = event.start if isinstance(event, SpeechStarted) else event.at
        assert at >= last
        turn, last = not isinstance(event, SpeechStopped), at


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "server_vad", "threshold": 1.1},
        {"type": "server_vad", "idle_timeout_ms": 4999},
        {"type": "server_vad", "silence_duration_ms": -1},
        {"type": "server_vad", "eagerness": "low"},
        {"type": "semantic_vad", "threshold": 0.5},
        {"type": "semantic_vad", "eagerness": "eager"},
        {"type": "no_vad"},
        {},
    ],
)
def test_settings_are_strict(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(TurnSettings).validate_python(wrong)
