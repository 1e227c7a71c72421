"""The listeners of the benchmark of voices, over an engine with a fake clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from deployments.engines.protocols import AudioChunk, SpeechRequest
from tests.load.listeners import HEAD_START_SECONDS, ListenerRun, Listening, most_without_gap, run_listeners

RATE = 100
CHUNK_SECONDS = 0.5


@dataclass(eq=False, slots=True)
class Spoken:
    left: int
    finished: bool = False


class Slow:
    """A step of any batch takes `step_s` on its clock; a stream has four chunks of half a second for each piece."""

    def __init__(self, step_s: float) -> None:
        self.engine: Any = self
        self.step_s, self.now_s, self.batches, self.slept = step_s, 0.0, list[int](), 0

    def request(self, number: int) -> SpeechRequest:
        return SpeechRequest(("Yes.",), "", seed=number)

    def open(self, request: SpeechRequest) -> Spoken:
        return Spoken(4 * len(request.pieces))

    def cost(self, utterance: Spoken) -> float:
        return 1.0

    def step(self, utterances: Sequence[Spoken]) -> list[AudioChunk]:
        self.now_s += self.step_s
        self.batches.append(len(utterances))
        for utterance in utterances:
            utterance.left -= 1
            utterance.finished = utterance.left == 0
        return [AudioChunk(np.zeros(int(CHUNK_SECONDS * RATE), np.float32), RATE, 0, "", last=False)] * len(utterances)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.slept += 1


def heard(engine: Slow, arrivals: Sequence[float], pieces: int = 5) -> Listening:
    room = ListenerRun(engine.engine, clock=lambda: engine.now_s, sleep=engine.sleep)
    return room.listen([SpeechRequest(("Yes.",) * pieces, "")] * len(arrivals), arrivals)


def test_fast_enough_is_without_a_gap_and_rests_when_all_are_far_ahead() -> None:
    engine = Slow(0.1)
    listening = heard(engine, [0.0, 0.33])
    assert listening.gaps == ()
    assert listening.first_audio == pytest.approx((0.1, 0.17))  # the second one came in the middle of a step
    assert listening.seconds_of_audio == 20.0
    assert engine.slept > 10
    assert listening.seconds == pytest.approx(0.43 + 10.0 - 1.5, abs=0.6)  # made at most 1.5 s ahead of the player


def test_a_chunk_later_than_the_head_start_is_a_gap() -> None:
    late = heard(Slow(CHUNK_SECONDS + 0.125), [0.0])
    assert len(late.gaps) == 20 - 1 - int(HEAD_START_SECONDS / 0.125)
    assert sum(late.gaps) == pytest.approx(19 * 0.125 - HEAD_START_SECONDS)


def test_every_listener_comes_and_an_error_is_not_hidden() -> None:
    engine = Slow(0.01)
    assert len(heard(engine, [0.0, 1.0, 2.0], pieces=1).first_audio) == 3
    engine.step = lambda utterances: [ValueError("poison")]  # type: ignore[method-assign, list-item]
    with pytest.raises(ValueError, match="poison"):
        heard(engine, [0.0])


def test_listeners_come_at_the_same_moments_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[int], list[float]]] = []

    def listen(_: ListenerRun, requests: Sequence[SpeechRequest], arrivals: Sequence[float]) -> Listening:
        seen.append(([len(request.pieces) for request in requests], list(arrivals)))
        return Listening((), (), 0.0, 0.0)

    monkeypatch.setattr(ListenerRun, "listen", listen)
    for seed in (0, 0, 1):
        run_listeners(Slow(0.1), 5, seconds=12.0, piece_seconds=3.0, seed=seed)
    assert seen[0] == seen[1] != seen[2]
    assert seen[0][0] == [4] * 5 and seen[0][1] == sorted(seen[0][1])


@pytest.mark.parametrize("holds", range(9))
def test_bisection_finds_the_most(holds: int) -> None:
    asked: list[int] = []

    def has_gap(count: int) -> bool:
        asked.append(count)
        return count > holds

    assert most_without_gap(has_gap, 8) == holds
    assert len(asked) <= 4
