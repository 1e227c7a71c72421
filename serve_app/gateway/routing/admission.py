"""Admission control: predicted seconds of audio against what is queued and how fast it is made.

Pure arithmetic on a clock that is passed in; it belongs to one thread. Each gateway replica has its own `Admission`. Several
of them need not know of each other: each measures its part of what the placements make, so that its waits, its demand and its
speed are in the proportions of the whole; and each has its part of what may wait (`AdmissionSettings.among`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from deployments.errors import MotetError, fail
from serve_app.gateway.request_context import current_key, current_request
from serve_app.gateway.routing.overload import Overload, QueueLook
from serve_app.gateway.routing.placement_queue import PlacementQueue, QueueReport, held_of
from serve_app.gateway.settings import AdmissionSettings

MARGIN = 1.1
"""Measured speeds vary. A client that came back a moment too early would be refused twice."""

ROUNDING = 1e-6
"""Seconds of audio, far below a sample, by which sums of floats may be off."""


QueueChanged = Callable[[str, int, float], None]
"""Called with a placement, its open requests, and the seconds of audio that wait, when a request begins or ends."""


class Ticket:
    """One admitted request's place in a queue. Its holder must `close` it.

    It `waits` while an engine owes it audio: from the start, and after `start_waiting`, until `stop_waiting`. Of the
    `left` seconds of audio that are still to be made, at most `reach` count as queued.
    """

    def __init__(
        self,
        admission: Admission,
        queue: PlacementQueue[Ticket],
        key: str | None,
        asked: float,
        left: float,
        reach: float,
        *,
        of_job: bool = False,
    ) -> None:
        self.key = key
        self.of_job = of_job
        self.asked = asked
        self.left = left
        self.reach = reach
        self.made_seconds = 0.0
        self.waits = True
        self._resting_since_s = 0.0
        self._playing_since_s = 0.0
        self.undelayed_since_s: float | None = None
        """When the first audio was requested of an engine that nothing waited for, so that it takes the usual time."""
        self.queue = queue
        self._admission = admission

    @property
    def placement(self) -> str:
        """The placement in whose queue the request is. Setting it moves what is left to another placement's queue."""
        return self.queue.placement

    @placement.setter
    def placement(self, placement: str) -> None:
        current_request().placement = placement
        if self.open and placement != self.queue.placement:
            self._admission.move(self, placement)

    @property
    def silent(self) -> bool:
        """Whether the request still waits for its first audio."""
        return self.made_seconds == 0.0

    @property
    def reach_now(self) -> float:
        """The most seconds of audio that count as queued now: less while the client is paused."""
        settings = self._admission.settings
        paused = not self.waits and self._admission.clock() - self._resting_since_s >= settings.paused_after_s
        return min(self.reach, settings.paused_seconds_of_audio) if paused else self.reach

    @property
    def queued(self) -> float:
        """Seconds of audio that count as queued."""
        return min(self.left, self.reach_now)

    @property
    def open(self) -> bool:
        """Whether the request still has its place."""
        return self in self.queue.tickets

    def buffered_seconds(self, now_s: float) -> float:
        """Audio that the client has not played yet if it plays it as it is made. See `QueuedRequest`."""
        return self._playing_since_s + self.made_seconds - now_s if self.made_seconds else 0.0

    def extend(self, seconds: float) -> None:
        """The text grew by about `seconds` of audio. Raises `MotetError` (overloaded), as `Admission.admit` does, if the
        client's key holds too much."""
        if self.open:
            self._admission.add(self, seconds)

    def start_waiting(self) -> None:
        """The next audio was requested."""
        if self.undelayed_since_s is not None:
            self.undelayed_since_s = self._admission.clock()
        self._set_waits(True)

    def stop_waiting(self) -> None:
        """The requested audio arrived, from an engine or from a cache, and no more is requested yet."""
        self._set_waits(False)

    def _set_waits(self, waits: bool) -> None:
        if self.open and waits != self.waits:
            self.queue.tick(self._admission.clock())
            self.waits = waits
            self._resting_since_s = self._admission.clock()

    def record_made(self, seconds: float) -> None:
        """`seconds` of the request's audio were made."""
        if self.open and seconds > 0:
            now_s = self._admission.clock()
            self.queue.record_made(seconds, now_s)
            if self.silent:
                self._playing_since_s = now_s
                if self.undelayed_since_s is not None:
                    self._admission.note_first_sound(self.queue, now_s - self.undelayed_since_s)
            self.made_seconds += seconds
            current_key().take_audio(seconds)
            self.left = max(0.0, self.left - seconds)

    def complete(self) -> None:
        """All audio was made: its length corrects later predictions. Closes the ticket."""
        if self.open:
            self.queue.length.passes(self.asked)
            self.queue.length.add(self.made_seconds)
            self.close()

    def give_up(self) -> float:
        """Gives the place back, and predicts in how many seconds one of the other requests in the queue ends: for a request
        that is refused for lack of something that each of them holds."""
        self.close()
        return min(self.queue.first_end_s() * MARGIN, self._admission.settings.max_retry_after_s)

    def close(self) -> None:
        """Gives the place back. Safe to call twice."""
        if self.open:
            if self.made_seconds:
                current_request().seconds_of_audio = round(self.made_seconds, 3)
            self._admission.forget(self)


class Admission:
    """The queues of all placements, and what each key holds of them."""

    def __init__(
        self,
        settings: AdmissionSettings,
        clock: Callable[[], float] = time.monotonic,
        changed: QueueChanged = lambda placement, requests, seconds: None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self._changed = changed
        self._queues: dict[str, PlacementQueue[Ticket]] = {}
        self._overloads: dict[PlacementQueue[Ticket], Overload] = {}
        self._job_queues: dict[str, PlacementQueue[Ticket]] = {}
        self._keys: dict[str, dict[Ticket, None]] = {}

    def admit(
        self,
        placements: Sequence[str],
        key: str | None,
        seconds: float,
        max_wait_s: float | None = None,
        reach: float = math.inf,
        *,
        patient: bool = False,
    ) -> Ticket:
        """A place in the queue of the first of `placements` that takes a request of about `seconds` of audio. Placements that
        make less audio than is played come after the others.

        `key` identifies the client; requests without one have no limit per key. `max_wait_s` overrides the setting. At most
        `reach` seconds of audio of the request are queued at any time. A `patient` request waits for up to `max_wait_s` also
        during an overload. Raises `MotetError` (overloaded, code `queue_full`) with the seconds after which the request would
        be admitted if no other one came, at most `max_retry_after_s`; and if the quota of audio of the request's API key is
        used up (`audio_quota`).
        """
        current_key().ensure_audio()
        assert seconds >= 0 and math.isfinite(seconds), seconds
        refusals = []
        for queue in sorted(map(self._queue, placements), key=lambda queue: queue.is_full):
            ticket = Ticket(self, queue, key, seconds, queue.expected(seconds), reach)
            look = self._look(queue, key)
            refusal = self._refusal(ticket, look, max_wait_s or self.settings.max_wait_s, patient=patient)
            if refusal is None:
                ticket.undelayed_since_s = self.clock() if look.wait_s == 0 else None
                return self._join(ticket)
            queue.refused += 1
            refusals.append(refusal)
        raise self._refused(min(refusals, key=lambda refusal: refusal.seconds))

    def admit_job(self, placement: str, seconds: float) -> Ticket:
        """A place for a job, of which only a few run. Jobs have queues of their own: no request is refused for them. Raises
        `MotetError` (overloaded) if the quota of the key that made the job is used up: it comes back later."""
        current_key().ensure_audio()
        queue = self._queue(placement, of_job=True)
        return self._join(Ticket(self, queue, None, seconds, queue.expected(seconds), math.inf, of_job=True))

    def add(self, ticket: Ticket, seconds: float) -> None:
        """The text of an open ticket grew. See `Ticket.extend`."""
        current_key().ensure_audio()
        queue = ticket.queue
        queue.tick(self.clock())
        left = ticket.left + queue.expected(seconds)
        if (queued := min(left, ticket.reach_now)) > ticket.queued:
            for refusal in self._key_refuses(ticket.key, queued, besides=ticket):
                queue.refused += 1
                raise self._refused(refusal)
        ticket.asked += seconds
        ticket.left = left

    def move(self, ticket: Ticket, placement: str) -> None:
        """Moves an open ticket to the queue of the placement that answers its request."""
        ticket.queue.tick(self.clock())
        del ticket.queue.tickets[ticket]
        self._report(ticket.queue)
        ticket.undelayed_since_s = None
        ticket.queue = self._queue(placement, of_job=ticket.of_job)
        ticket.queue.tickets[ticket] = None
        self._report(ticket.queue)

    def _report(self, queue: PlacementQueue[Ticket]) -> None:
        if self._queues.get(queue.placement) is queue:  # a queue of jobs is not that of the placement
            self._changed(queue.placement, len(queue.tickets), queue.queued_seconds)

    def _queue(self, placement: str, *, of_job: bool = False) -> PlacementQueue[Ticket]:
        queues = self._job_queues if of_job else self._queues
        queue = queues.get(placement)
        if queue is None:
            settings = self.settings
            queue = PlacementQueue(placement, settings.first_speed, settings.speed_memory_s, self.clock())
            self._overloads[queue] = Overload(settings.overload)
            queues[placement] = queue
        queue.tick(self.clock())
        return queue

    def _refusal(self, ticket: Ticket, look: QueueLook, max_wait_s: float, *, patient: bool) -> _Refusal | None:
        """Why a queue refuses a request: of several reasons, the one that lasts longest."""
        left, wait = ticket.queued, _wait_refuses(look.wait_s, max_wait_s)
        refusals = [*self._queue_refuses(ticket.queue, left), *self._key_refuses(ticket.key, left), *wait]
        if not patient:
            refusals += self._overload_refuses(ticket, look)
        return max(refusals, key=lambda refusal: refusal.seconds, default=None)

    def _refused(self, refusal: _Refusal) -> MotetError:
        return refusal.error(self.settings.max_retry_after_s)

    def _join(self, ticket: Ticket) -> Ticket:
        ticket.queue.tickets[ticket] = None
        self._report(ticket.queue)
        if ticket.key is not None:
            self._keys.setdefault(ticket.key, {})[ticket] = None
        return ticket

    def note_first_sound(self, queue: PlacementQueue[Ticket], seconds: float) -> None:
        """A request that found no queue had its first audio after `seconds`."""
        if (overload := self._overloads.get(queue)) is not None:  # its model may have been unloaded
            overload.note_first_sound(seconds)

    @staticmethod
    def _look(queue: PlacementQueue[Ticket], key: str | None) -> QueueLook:
        keys = queue.listeners
        return QueueLook(queue.wait_s, queue.speed.value, len(keys), keys.count(key), queue.starves, queue.silent_s)

    def forget(self, ticket: Ticket) -> None:
        """Removes an open ticket from its queue and its key."""
        ticket.queue.tick(self.clock())
        del ticket.queue.tickets[ticket]
        self._report(ticket.queue)
        if ticket.key is None:
            return
        del self._keys[ticket.key][ticket]
        if not self._keys[ticket.key]:
            del self._keys[ticket.key]

    def forget_placement(self, placement: str) -> None:
        """Forgets what was measured of a placement whose model is gone. Open requests keep their tickets, and count there no
        longer."""
        if placement in self._queues:
            self._changed(placement, 0, 0.0)
        for queues in (self._queues, self._job_queues):
            if (queue := queues.pop(placement, None)) is not None:
                del self._overloads[queue]

    def snapshot(self) -> dict[str, QueueReport]:
        """A report of every placement that was requested so far, without its jobs."""
        return {name: queue.report(self.clock()) for name, queue in self._queues.items()}

    def open_tickets(self) -> Iterator[Ticket]:
        """Every request that has a place, placement by placement, without those of jobs."""
        return (ticket for queue in self._queues.values() for ticket in queue.tickets)

    def queued_seconds_of(self, key: str) -> float:
        """Seconds of audio that a key waits for."""
        return sum(ticket.queued for ticket in self._keys.get(key, ()))

    @property
    def keys(self) -> int:
        """The number of keys that have a place now."""
        return len(self._keys)

    def _target(self, limit: float, left: float) -> float:
        """How much of a limit others may hold for a request to fit."""
        allowance = self.settings.short_seconds_of_audio if left <= self.settings.short_seconds_of_audio else 0.0
        return limit + allowance - min(left, limit)

    def _queue_refuses(self, queue: PlacementQueue[Ticket], left: float) -> Iterable[_Refusal]:
        limit = self.settings.max_queued_seconds_of_audio
        target = self._target(limit, left)
        if held_of(queue.tickets, limit) > target + ROUNDING:
            cause = f"{queue.queued_seconds:.0f} s of audio wait to be made, and this request adds {left:.0f} s."
            yield _Refusal(cause, queue.seconds_until(target, queue.tickets, limit))

    def _overload_refuses(self, ticket: Ticket, look: QueueLook) -> Iterable[_Refusal]:
        now_s, overload = self.clock(), self._overloads[ticket.queue]
        overload.note_request(ticket.key, ticket.queued, look.speed, now_s)
        if overload.refuses(ticket.key, look, now_s):
            yield _Refusal("More speech is asked for than the service makes.", overload.lasts_for_s(look.speed, now_s))

    def _key_refuses(self, key: str | None, left: float, besides: Ticket | None = None) -> Iterable[_Refusal]:
        if key is None:
            return
        limit = self.settings.max_queued_seconds_of_audio_per_key
        mine = [ticket for ticket in self._keys.get(key, ()) if ticket is not besides]
        target = self._target(limit, left)
        if (held := held_of(mine, limit)) > target + ROUNDING:
            cause = f"This API key already waits for {held:.0f} s of audio, and this request adds {left:.0f} s."
            yield _Refusal(cause, _key_seconds_until(target, mine, limit, held))


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a request is refused, and for how long."""

    cause: str
    seconds: float

    def error(self, most_s: float) -> MotetError:
        retry_after_s = min(self.seconds * MARGIN, most_s)
        remedy = f"Try again in {max(1, math.ceil(retry_after_s))} s."
        return fail("overloaded", self.cause, remedy, code="queue_full", retry_after_s=retry_after_s)


def _wait_refuses(wait_s: float, max_wait_s: float) -> Iterable[_Refusal]:
    if (over := wait_s - max_wait_s) > 0:
        yield _Refusal(f"A new request would wait {wait_s:.1f} s for its first sound.", over)


def _key_seconds_until(target: float, mine: Iterable[Ticket], limit: float, held: float) -> float:
    """How long until a key holds at most `target`: at the latest when one placement alone has made the difference, or when
    all of them have made everything."""
    by_queue: dict[PlacementQueue[Ticket], list[Ticket]] = {}
    for ticket in mine:
        by_queue.setdefault(ticket.queue, []).append(ticket)
    everything = max(queue.seconds_until(0.0, tickets, limit) for queue, tickets in by_queue.items())
    alone = [
        queue.seconds_until(held_of(tickets, limit) - (held - target), tickets, limit)
        for queue, tickets in by_queue.items()
        if held_of(tickets, limit) >= held - target
    ]
    return min([everything, *alone])
