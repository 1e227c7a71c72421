"""The arithmetic of the benchmark of live sessions, on events and words that are known, and its client on a server that speaks
the events."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve

from deployments.engines.protocols import SpokenWord
from serve_app.bench import live, live_answers, live_chat_model, live_curve, live_points, live_service
from serve_app.bench.frame import Sheet, carry_out
from serve_app.bench.hearing_corpus import CORPUS_RATE, Corpus
from serve_app.bench.live_client import (
    AUDIO,
    COMPLETED,
    DELTA,
    DONE,
    STARTED,
    STOPPED,
    TENTATIVE,
    ServerEvent,
    live_client,
)
from serve_app.bench.live_conversation import answer_time, silent_after
from serve_app.bench.live_dictation import LoadResult, SessionResult
from serve_app.bench.live_latency import behind_speech, behind_turns, final_text, snapshots
from serve_app.bench.live_microphone import CHUNK_S, RATE, messages_of
from serve_app.bench.live_points import Point, Stage, most_that_hold, next_count, point
from serve_app.bench.live_recordings import LiveRecording, dictations, utterances
from serve_app.bench.running_service import RunningProgram
from serve_app.config import AppConfig

WORDS = (
    SpokenWord("The", 0.5, 0.7),
    SpokenWord("cat", 0.7, 1.0),
    SpokenWord("sat.", 1.0, 1.4),
    SpokenWord("The", 2.5, 2.7),
    SpokenWord("dog!", 2.7, 3.0),
)


def event(at_s: float, kind: str, item: str = "", **facts: Any) -> ServerEvent:
    return ServerEvent(at_s, {"type": kind, "item_id": item, **facts})


EVENTS = [
    event(0.6, STARTED, "a", audio_start_ms=300),
    event(0.9, TENTATIVE, "a", tentative="The can"),
    event(1.3, DELTA, "a", delta="The cat"),
    event(1.3, TENTATIVE, "a", tentative=" sad"),
    event(1.8, STOPPED, "a", audio_end_ms=1450),
    event(2.0, DELTA, "a", delta=" sat."),
    event(2.0, COMPLETED, "a", transcript="The cat sat."),
    event(2.6, STARTED, "b", audio_start_ms=2300),
    event(3.4, STOPPED, "b", audio_end_ms=3350),
    event(3.5, COMPLETED, "b", transcript="the dog"),
]

# --- Latencies


def test_a_word_is_late_from_its_end_to_the_first_text_that_has_it() -> None:
    partials = behind_speech(WORDS, snapshots(EVENTS, tentative=True))
    assert partials == pytest.approx([0.9 - 0.7, 1.3 - 1.0, 2.0 - 1.4, 3.5 - 2.7, 3.5 - 3.0])
    committed = behind_speech(WORDS, snapshots(EVENTS, tentative=False))
    assert committed == pytest.approx([1.3 - 0.7, 1.3 - 1.0, 2.0 - 1.4, 3.5 - 2.7, 3.5 - 3.0])


def test_a_word_is_not_seen_before_it_is_said() -> None:
    invented = [event(0.1, DELTA, "a", delta="The cat sat."), *EVENTS[6:]]
    assert min(behind_speech(WORDS, snapshots(invented, tentative=True))) > 0


def test_a_word_that_is_never_recognized_has_no_time() -> None:
    wrong = [event(2.0, COMPLETED, "a", transcript="The cat fat.")]
    assert behind_speech(WORDS, snapshots(wrong, tentative=True)) == pytest.approx([1.3, 1.0])


def test_a_final_text_is_late_from_the_end_of_the_last_word_whatever_end_the_service_says() -> None:
    for end_ms in (1410, 1450, 1750):
        moved = [
            replace(each, facts=each.facts | {"audio_end_ms": end_ms}) if each is EVENTS[4] else each for each in EVENTS
        ]
        behind, missing = behind_turns(WORDS, moved)
        assert behind == pytest.approx([2.0 - 1.4, 3.5 - 3.0])
        assert missing == 0


def test_a_turn_without_a_final_text_is_missing_and_one_without_words_does_not_count() -> None:
    noise = [event(4.0, STARTED, "c", audio_start_ms=3900), event(4.5, STOPPED, "c", audio_end_ms=4400)]
    behind, missing = behind_turns(WORDS, [*EVENTS[:-1], *noise])
    assert behind == pytest.approx([0.6])
    assert missing == 1


def test_the_final_text_is_in_the_order_of_the_items() -> None:
    assert final_text(EVENTS) == "The cat sat. the dog"
    late = [EVENTS[0], EVENTS[7], EVENTS[9], EVENTS[6]]
    assert final_text(late) == "The cat sat. the dog"
    assert final_text(EVENTS[:4]) == "The cat"


def test_the_first_sound_counts_from_the_last_word_and_answers_to_a_part_do_not_count() -> None:
    words = WORDS[:3]
    sounds = [event(1.2, AUDIO), event(2.0, STOPPED), event(2.2, COMPLETED), event(2.4, AUDIO), event(2.5, AUDIO)]
    moved = [replace(each, at_s=each.at_s + 10) for each in sounds]
    found = answer_time(words, 10.0, moved)
    assert found is not None
    assert (found.turn_s, found.text_s, found.sound_s) == pytest.approx((0.6, 0.8, 1.0))
    assert answer_time(words, 10.0, moved[:3]) is None


def test_silence_counts_from_the_first_word_to_the_last_sound_of_the_interrupted_response() -> None:
    done = event(10.6, DONE, response={"id": "r1", "status": "cancelled"})
    before = [event(10.1, AUDIO, response_id="r1"), event(10.58, AUDIO, response_id="r1")]
    new = event(13.0, AUDIO, response_id="r2")
    assert silent_after(WORDS, 10.0, [*before, done, new]) == pytest.approx(0.1)
    late = event(10.9, AUDIO, response_id="r1")
    assert silent_after(WORDS, 10.0, [*before, done, late]) == pytest.approx(0.4)
    completed = event(10.6, DONE, response={"id": "r1", "status": "completed"})
    assert silent_after(WORDS, 10.0, [*before, completed]) is None
    assert silent_after(WORDS, 10.2, [*before, done]) is None, "it had ended before"


# --- Points


def session(**facts: Any) -> SessionResult:
    usual = SessionResult("The cat sat. the dog", (0.2, 0.8), (0.3, 0.9), (0.5,), late_s=(0.001,))
    return replace(usual, **facts)


def measured(*sessions: SessionResult) -> Point:
    said = [LiveRecording(np.zeros(0, np.int16), WORDS)] * len(sessions)
    return point(LoadResult(sessions, 1.5, 0.1), said, ["The cat sat the cog"] * len(sessions))


def test_a_point_holds_if_all_sessions_meet_both_targets() -> None:
    good = measured(session(), session())
    assert good.holds
    assert (good.words, good.shown, good.turns) == (10, 4, 2)
    assert (good.live_errors, good.offline_errors) == pytest.approx((0, 20))
    assert good.partials[0] == pytest.approx(0.5)
    assert not measured(session(), session(partials_s=(1.5, 1.6))).holds
    assert not measured(session(), session(finals_s=(0.9,))).holds
    assert not measured(session(), session(missing=1)).holds
    assert not measured(session(finals_s=())).holds


def test_a_refused_session_counts_in_no_quantile() -> None:
    some = measured(session(), SessionResult(failure="overloaded"))
    assert not some.holds
    assert (some.sessions, some.failed, some.words) == (2, ("overloaded",), 5)


def points(**held: bool) -> Mapping[int, Point]:
    bad = session(missing=1)
    return {int(count[1:]): measured(session() if holds else bad) for count, holds in held.items()}


def test_the_most_that_hold_are_found_between_those_of_the_grid() -> None:
    grid = (1, 2, 4, 8)
    assert next_count({}, grid) == 1
    assert next_count(points(_1=True, _2=True), grid) == 4
    assert next_count(points(_1=True, _4=True, _8=False), grid) == 6
    assert next_count(points(_4=True, _6=False, _8=False), grid) == 5
    assert next_count(points(_4=True, _5=True, _6=False), grid) is None
    assert next_count(points(_1=False), grid) is None
    assert next_count(points(_1=True, _8=True), grid) is None
    assert most_that_hold(points(_1=True, _4=True, _6=False, _8=True)) == 4
    assert most_that_hold(points(_1=False, _2=True)) == 0


# --- Recordings


def corpus() -> Corpus:
    """Sentences of three seconds every five; the second one has a pause within it."""
    words, silences = list[SpokenWord](), [(0.0, 1.0)]
    for number in range(10):
        begin = 1.0 + 5 * number
        gap = 0.3 if number == 1 else 0.0
        words += [SpokenWord("one", begin, begin + 1.5 - gap), SpokenWord("two", begin + 1.5, begin + 3)]
        silences.append((begin + 3, begin + 5))
    return Corpus(np.arange(51 * CORPUS_RATE).astype(np.int16), "", tuple(words), tuple(silences), "")


def test_sessions_hear_different_parts_that_begin_and_end_in_silences() -> None:
    found = dictations(corpus(), 4, 15.0)
    assert [recording.seconds for recording in found] == pytest.approx([15.0 + 0.5, 15, 15, 15], abs=1)
    assert len({recording.samples[:100].tobytes() for recording in found}) == 4
    for recording in found:
        assert recording.text == "one two " * 2 + "one two"
        assert 0 < recording.spoken_s[0] < recording.spoken_s[1] < recording.seconds


def test_utterances_have_no_pause() -> None:
    found = [*utterances(corpus())]
    assert len(found) == 9
    assert all(recording.text == "one two" and recording.spoken_s == pytest.approx((0.3, 3.3)) for recording in found)


# --- The client


def test_a_message_carries_40_ms() -> None:
    messages = [json.loads(each) for each in messages_of(np.ones(CORPUS_RATE // 10, np.int16))]
    assert [each["type"] for each in messages] == ["input_audio_buffer.append"] * 3
    assert {len(each["audio"]) for each in messages} == {round(CHUNK_S * RATE) * 2 * 4 // 3}


@asynccontextmanager
async def speaking_server() -> AsyncIterator[RunningProgram]:
    """It answers `session.update`, and tells the length of each message of audio."""

    async def answer(socket: ServerConnection) -> None:
        await socket.send(json.dumps({"type": "session.created"}))
        async for message in socket:
            facts = json.loads(message)
            if facts["type"] == "session.update":
                await socket.send(json.dumps({"type": "session.updated"}))
            else:
                await socket.send(json.dumps({"type": AUDIO, "delta": facts["audio"]}))

    async with serve(answer, "127.0.0.1", 0) as server:
        yield RunningProgram("127.0.0.1", next(iter(server.sockets)).getsockname()[1], 0.0)


async def test_the_microphone_runs_on_the_clock_and_events_have_its_times() -> None:
    async with speaking_server() as service, live_client(service, "intent=transcription", {}) as client:
        started = time.monotonic()
        begins = client.microphone.say(messages_of(np.zeros(CORPUS_RATE // 5, np.int16)))
        await client.until(lambda _: len(client.events) >= 5, 5.0)
        assert begins == 0.0
        assert time.monotonic() - started >= 5 * CHUNK_S - 0.02, "a message is sent when its last sample is spoken"
        assert client.events[0].facts["bytes"] == round(CHUNK_S * RATE) * 2
        for number, received in enumerate(client.events):
            assert received.at_s >= (number + 1) * CHUNK_S
        assert await client.until(lambda each: each.type == COMPLETED, 0.01) is None


# --- The rest


def test_answers_are_all_different_and_long_on_demand() -> None:
    texts = {live_chat_model.answers(number, live_chat_model.SHORT) for number in range(50)}
    assert len(texts) == 50
    request = {"messages": [{"role": "system", "content": f"{live_chat_model.AT_LENGTH} Be kind."}]}
    assert live_chat_model.sentences_of(request) == live_chat_model.LONG
    assert live_chat_model.sentences_of({"messages": [{"role": "user", "content": "Hi."}]}) == live_chat_model.SHORT


def test_the_service_has_each_model_twice() -> None:
    config = AppConfig.model_validate(
        live_service.config((live_service.TINY, live_service.BASE), "http://127.0.0.1:1/v1", compared=True)
    )
    for name in (live_service.TINY, live_service.BASE):
        both = config.models[name], config.models[live_service.alone(name)]
        assert both[0].steps.max_batch_size > both[1].steps.max_batch_size == 1
        assert both[0].model_copy(update={"steps": both[1].steps}) == both[1]


@pytest.mark.parametrize("plan", [live.QUICK, live.FULL], ids=["quick", "full"])
def test_no_two_figures_have_one_name(plan: live.LivePlan) -> None:
    names = [figure.name for figure in live._figures(plan)]
    assert len(names) == len(set(names))
    assert set(plan.conversations) <= set(live_answers.LIMITS_MS)
    assert live_points.PARTIAL_S == 1.0 and live_points.FINAL_S == 0.7


class Rehearsal(Stage):
    """As many sessions hold as it is told, by name."""

    def __init__(self, most: Mapping[str, int]) -> None:
        self.most = most
        self.measured: list[tuple[str, int]] = []

    def measure(self, name: str, model: str, sessions: int) -> Point:
        """Measures nothing."""
        self.measured.append((name, sessions))
        holds = sessions <= self.most[name]
        return replace(measured(session() if holds else session(missing=1)), sessions=sessions)


def test_the_curve_finds_the_most_sessions_with_and_without_shared_batches() -> None:
    stage = Rehearsal({"m": 11, "m-alone": 3})
    wanted = live_curve.figures(["m"], (1, 2, 4, 8, 16), compared=True)

    def measure(sheet: Sheet) -> None:
        assert live_curve.measure_curve(sheet, stage, "m", (1, 2, 4, 8, 16), compared=True).keys() == {
            1,
            2,
            4,
            8,
            16,
            10,
            11,
            12,
        }

    report = carry_out("live", wanted, measure, quick=True)
    values = {figure.name: figure.value for figure in report.figures}
    assert values[live_curve.MOST.format("m")] == 11
    assert values[live_curve.MOST_ALONE.format("m")] == 3
    assert values[live_curve.RATIO.format("m")] == pytest.approx(11 / 3)
    assert [count for name, count in stage.measured if name == "m"] == [1, 2, 4, 8, 16, 12, 10, 11]
    assert [count for name, count in stage.measured if name == "m-alone"] == [1, 2, 4, 3]
    assert report.exit_status == 0
