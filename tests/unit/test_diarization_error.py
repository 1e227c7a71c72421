"""The diarization error rate of turns whose errors are known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.tasks.diarization import SpeakerTurn
from serve_app.bench.diarization_error import DiarizationError, diarization_error

TRUTH = (SpeakerTurn(0, 10, "ada"), SpeakerTurn(10, 14, "ben"), SpeakerTurn(16, 20, "ada"))


def error(*found: SpeakerTurn, collar_s: float = 0.0) -> DiarizationError:
    return diarization_error(TRUTH, found, collar_s)


def test_names_do_not_matter() -> None:
    found = error(SpeakerTurn(0, 10, "B"), SpeakerTurn(10, 14, "A"), SpeakerTurn(16, 20, "B"))
    assert found == DiarizationError(18, 0, 0, 0)
    assert found.rate == 0


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ((), DiarizationError(18, 18, 0, 0)),
        ((SpeakerTurn(0, 20, "A"),), DiarizationError(18, 0, 2, 4)),
        ((SpeakerTurn(0, 9, "A"), SpeakerTurn(9, 14, "B"), SpeakerTurn(16, 20, "A")), DiarizationError(18, 0, 0, 1)),
        ((SpeakerTurn(0, 10, "A"), SpeakerTurn(10, 13, "B"), SpeakerTurn(16, 20, "C")), DiarizationError(18, 1, 0, 4)),
        ((SpeakerTurn(0, 14, "A"), SpeakerTurn(8, 14, "B"), SpeakerTurn(16, 20, "A")), DiarizationError(18, 0, 6, 0)),
    ],
)
def test_missed_invented_and_confused_time(found: tuple[SpeakerTurn, ...], expected: DiarizationError) -> None:
    assert error(*found) == expected
    assert error(*found).rate == pytest.approx((expected.missed_s + expected.false_s + expected.confused_s) / 18)


def test_time_near_true_edges_is_not_scored() -> None:
    found = (SpeakerTurn(0.2, 10.2, "A"), SpeakerTurn(10.2, 14.2, "B"), SpeakerTurn(15.8, 19.8, "A"))
    assert error(*found, collar_s=0.25) == DiarizationError(pytest.approx(18 - 0.5 * 3), 0, 0, 0)  # type: ignore[arg-type]


def test_speech_of_two_at_once_counts_twice() -> None:
    both = (SpeakerTurn(0, 4, "ada"), SpeakerTurn(2, 6, "ben"))
    one = diarization_error(both, (SpeakerTurn(0, 3, "A"), SpeakerTurn(3, 6, "B")), 0.0)
    assert one == DiarizationError(8, 2, 0, 0)


def test_the_matching_is_the_best_for_the_whole_recording() -> None:
    """A greedy choice would match "A" with ada, for six seconds, and leave one second for "B"."""
    truth = (SpeakerTurn(0, 6, "ada"), SpeakerTurn(6, 11, "ben"), SpeakerTurn(11, 16, "ada"))
    found = (SpeakerTurn(0, 11, "A"), SpeakerTurn(11, 16, "B"))
    assert diarization_error(truth, found, 0.0) == DiarizationError(16, 0, 0, 6)


def test_without_speech_there_is_no_rate() -> None:
    assert math.isnan(diarization_error((), (SpeakerTurn(0, 1, "A"),), 0.0).rate)


Turns = st.lists(st.tuples(st.floats(0.1, 5), st.floats(0, 2), st.sampled_from("ABC")), min_size=1, max_size=8)


@given(Turns, Turns, st.sampled_from([0.0, 0.25]))
def test_bounds(truth: list[tuple[float, float, str]], found: list[tuple[float, float, str]], collar_s: float) -> None:
    true, guessed = in_line(truth), in_line(found)
    result = diarization_error(true, guessed, collar_s)
    assert result.missed_s + result.confused_s <= result.speech_s + 1e-9
    assert min(result.missed_s, result.false_s, result.confused_s) >= 0
    renamed = [SpeakerTurn(turn.start_s, turn.end_s, turn.speaker + "'") for turn in true]
    perfect = diarization_error(true, renamed, collar_s)
    assert perfect.missed_s == perfect.false_s == perfect.confused_s == 0


def in_line(stretches: list[tuple[float, float, str]]) -> list[SpeakerTurn]:
    turns, now = [], 0.0
    for seconds, pause, speaker in stretches:
        turns.append(SpeakerTurn(now, now + seconds, speaker))
        now += seconds + pause
    return turns
