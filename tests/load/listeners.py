"""Listeners that arrive one after the other and play in real time, and how many hear no gap.

An engine is driven as a replica drives it: whoever waits when a step ends is chosen for the next one by `scheduling.choose`,
and is not made further ahead of its player than the service makes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from deployments.engines.limits import LimitsStepTime
from deployments.engines.protocols import (
    AudioChunk,
    SpeechEngine,
    SpeechRequest,
)
from deployments.replica.step_scheduling import Candidate, ListenerDeadline, StepRequest, choose
from deployments.settings import StepSettings
from serve_app.gateway.settings import PacingSettings
from tests.load.speakers import Speakers

HEAD_START_SECONDS = 0.2
"""Delay of a player after the first audio: the service's smallest ring buffer."""
ARRIVAL_SECONDS = 3.0
"""All listeners arrive at random moments within this time, or within a quarter of their listening time."""


@dataclass(frozen=True, slots=True)
class Listening:
    """The results of some listeners: the seconds from each arrival to its first audio, and all gaps."""

    first_audio: tuple[float, ...]
    gaps: tuple[float, ...]
    seconds_of_audio: float
    seconds: float


@dataclass(slots=True, eq=False)
class ListenerState:
    """A listener. `plays_until_s` is when its player runs out of audio. Times are seconds since the start of the run."""

    came_s: float
    utterance: Any
    deadline: ListenerDeadline
    first_s: float | None = None
    plays_until_s: float = 0.0
    made_seconds: float = 0.0
    gaps: list[float] = field(default_factory=list)

    def hear(self, chunk: AudioChunk, now_s: float) -> None:
        """Takes the next chunk, pending or not."""
        if not chunk.seconds:
            return
        if self.first_s is None:
            self.first_s, self.plays_until_s = now_s, now_s + HEAD_START_SECONDS
        elif now_s > self.plays_until_s:
            self.gaps.append(now_s - self.plays_until_s)
            self.plays_until_s = now_s
        self.plays_until_s += chunk.seconds
        self.made_seconds += chunk.seconds
        self.deadline.add(chunk.seconds, now_s)


@dataclass(slots=True)
class ListenerRun:
    """Steps streams as a replica does, by a given clock."""

    engine: SpeechEngine[Any]
    steps: StepSettings = field(default_factory=StepSettings)
    pacing: PacingSettings = field(default_factory=PacingSettings)
    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], None] = time.sleep

    @property
    def _most_ahead_s(self) -> float:
        """The most seconds that a paced stream is made ahead: the look-ahead and the ring buffer."""
        return (self.pacing.look_ahead_ms + self.pacing.capacity_ms) / 1000

    def listen(self, requests: Sequence[SpeechRequest], arrivals: Sequence[float]) -> Listening:
        """Speaks each request to a listener that arrives at `arrivals`, in seconds from now, in ascending order."""
        began, coming = self.clock(), list(zip(arrivals, requests, strict=True))
        here: list[ListenerState] = []
        while coming or any(not listener.utterance.finished for listener in here):
            now = self.clock() - began
            while coming and coming[0][0] <= now:
                here.append(self._welcome(*coming.pop(0)))
            wanting = [listener for listener in here if not listener.utterance.finished]
            asking = [listener for listener in wanting if listener.deadline.deadline_s - now <= self._most_ahead_s]
            if asking:
                self._step(asking, now, began)
            else:
                moments = [listener.deadline.deadline_s - self._most_ahead_s for listener in wanting]
                self.sleep(max(0.001, min([*moments, *(at for at, _ in coming[:1])]) - now))
        return Listening(
            tuple((listener.first_s or now) - listener.came_s for listener in here),
            tuple(gap for listener in here for gap in listener.gaps),
            sum(listener.made_seconds for listener in here),
            self.clock() - began,
        )

    def _welcome(self, came_s: float, request: SpeechRequest) -> ListenerState:
        return ListenerState(
            came_s, self.engine.open(request), ListenerDeadline(came_s + self.steps.urgent_below_ms / 1000)
        )

    def _step(self, asking: Sequence[ListenerState], now_s: float, began: float) -> None:
        bounded = isinstance(self.engine, LimitsStepTime)
        waiting = [
            Candidate(one, StepRequest(one.deadline.deadline_s, self.engine.cost(one.utterance), bounded))
            for one in asking
        ]
        chosen = [candidate.item for candidate in choose(waiting, self.steps, now_s)]
        chunks = self.engine.step([listener.utterance for listener in chosen])
        now_s = self.clock() - began
        for listener, chunk in zip(chosen, chunks, strict=True):
            if isinstance(chunk, Exception):
                raise chunk
            listener.hear(chunk, now_s)


def run_listeners(contest: Speakers, count: int, *, seconds: float, piece_seconds: float, seed: int = 0) -> Listening:
    """So many listeners, who come at random within `ARRIVAL_SECONDS`. Each listens for about so many `seconds`, to pieces of
    `piece_seconds`."""
    pieces = max(1, round(seconds / piece_seconds))
    requests = [contest.request(number) for number in range(count)]
    texts = [replace(request, pieces=request.pieces[:1] * pieces) for request in requests]
    arrivals = sorted(
        np.random.default_rng([seed, count]).uniform(0, min(ARRIVAL_SECONDS, seconds / 4), count).tolist()
    )
    return ListenerRun(contest.engine).listen(texts, arrivals)


def most_without_gap(has_gap: Callable[[int], bool], most: int) -> int:
    """The largest number of listeners up to `most` of whom none hears a gap, by bisection; 0 where one alone does."""
    held, failed = 0, most + 1
    while failed - held > 1:
        middle = (held + failed) // 2
        held, failed = (held, middle) if has_gap(middle) else (middle, failed)
    return held
