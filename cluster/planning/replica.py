"""A simulated replica: the service's own step gate, step choice and load report around an engine of which only the time of a
step is known.

A step of a batch is one event. What is left out: the milliseconds in which callers return to the gate (they are part of the
measured time of a step), and padding that an engine makes for other reasons than lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cluster.planning.clock import SimulatedTime
from cluster.planning.engine_times import StepTimes
from deployments.replica.load import ReplicaLoad, Work
from deployments.replica.step_opening import StepOpening
from deployments.replica.step_scheduling import (
    Candidate,
    ListenerDeadline,
    StepRequest,
    live_deadline,
    recording_deadline,
)
from deployments.settings import StepSettings

CHARACTERS_PER_SECOND = 15.0
"""The unit of cost of engines that speak whole pieces is a character."""


@dataclass(slots=True, eq=False)
class EngineCall:
    """One request to a replica: pieces to speak, or a window to hear. Seconds are of audio.

    `buffered_seconds` is what the listener has when it comes. `window` is the number of a window of a recording, and `live`
    says of a hearing of a live turn whether it is the last one. `on_chunk` gets the seconds of each chunk and whether it was
    the last one; `on_lost` is called if the replica ends before.
    """

    seconds: list[float]
    predicted_seconds: float
    on_chunk: Callable[[float, bool], None]
    on_lost: Callable[[], None]
    buffered_seconds: float = 0.0
    window: int | None = None
    live: bool | None = None
    cancelled: bool = False
    replica: SimulatedReplica | None = None
    came_s: float = 0.0
    begun: bool = False
    listener: ListenerDeadline = field(default_factory=lambda: ListenerDeadline(0.0))
    work: Work | None = None
    _piece: int = 0
    _done: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether everything was spoken or heard."""
        return self._piece >= len(self.seconds)

    def next_seconds(self, chunk_seconds: float | None) -> float:
        """Audio of the next step, at most a chunk."""
        left = self.seconds[self._piece] - self._done
        return left if chunk_seconds is None else min(chunk_seconds, left)

    def advance(self, seconds: float) -> None:
        """A step made or heard `seconds`."""
        self._done += seconds
        if self._done >= self.seconds[self._piece] - 1e-9:
            self._piece, self._done = self._piece + 1, 0.0


class SimulatedReplica(StepOpening[EngineCall]):
    """A replica of one placement, on a machine. `on_free` is called when a call ended."""

    def __init__(
        self,
        time: SimulatedTime,
        settings: StepSettings,
        times: StepTimes,
        chunk_seconds: float | None,
        on_free: Callable[[SimulatedReplica], None],
    ) -> None:
        super().__init__(settings, time.now, time.later)
        self.load = ReplicaLoad(time.now)
        self.calls: dict[EngineCall, None] = {}
        self.draining = False
        self.ended = False
        self.busy_s = 0.0
        self._time = time
        self._times = times
        self._chunk_seconds = chunk_seconds
        self._on_free = on_free
        self._step: list[Candidate[EngineCall]] = []

    def accept(self, call: EngineCall) -> None:
        """Takes a call, which waits for its first step."""
        now_s = self._time.now()
        call.replica, call.came_s = self, now_s
        self.calls[call] = None
        due_s = call.buffered_seconds or self.settings.urgent_below_ms / 1000
        call.listener = ListenerDeadline(now_s + due_s, plays=call.buffered_seconds > 0)
        call.work = self.load.begin(call.predicted_seconds)
        self.streams += 1
        self.wait(self._candidate(call))

    def end(self) -> None:
        """The replica is gone, with all its calls."""
        self.ended = True
        calls, self.calls = list(self.calls), {}
        self._waiting.clear()
        for call in calls:
            call.on_lost()

    def let_in(self, candidate: Candidate[EngineCall], together: int) -> None:
        """See `StepOpening`. The step begins when all of its candidates are in."""
        self.forget(candidate)
        self._step.append(candidate)
        if len(self._step) < together:
            return
        seconds = [each.item.next_seconds(self._chunk_seconds) for each in self._step]
        first = any(not each.item.begun for each in self._step)
        step_s = self._times.of(seconds, first)
        self.busy_s += step_s
        self._time.later(step_s, lambda: self._end_step(seconds))

    def _end_step(self, seconds: list[float]) -> None:
        if self.ended:
            return
        step, self._step = self._step, []
        for _ in step:
            self.end_one()
        for candidate, made in zip(step, seconds, strict=True):
            call = candidate.item
            call.advance(made)
            call.listener.add(made, self._time.now())
            if call.work is not None:
                call.work.made(made)
            if not call.begun and call.window is None and call.live is None and not call.buffered_seconds:
                self.load.first_sound(self._time.now() - call.came_s)
            call.begun = True
            if not call.finished:
                self.wait(self._candidate(call))
        for candidate, made in zip(step, seconds, strict=True):
            if candidate.item.finished:
                self._finish(candidate.item)
            candidate.item.on_chunk(made, candidate.item.finished)

    def _finish(self, call: EngineCall) -> None:
        del self.calls[call]
        if call.work is not None:
            self.load.end(call.work)
        self.end_stream()
        self._on_free(self)

    def _candidate(self, call: EngineCall) -> Candidate[EngineCall]:
        now_s = self._time.now()
        if call.live is not None:
            return Candidate(call, StepRequest(live_deadline(now_s, last=call.live), live=True))
        if call.window is not None:
            return Candidate(call, StepRequest(recording_deadline(call.window, now_s)))
        whole = self._chunk_seconds is None
        cost = call.next_seconds(None) * CHARACTERS_PER_SECOND if whole else 1.0
        return Candidate(call, StepRequest(call.listener.deadline_s, cost))
