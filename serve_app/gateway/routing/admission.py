"""Who may join the queue: predicted seconds of audio against what is queued and how fast it is made.

Everything here is arithmetic on a clock that is passed in, and belongs to one thread. Each gateway replica keeps its own
`Admission`, so the limits are those of one gateway replica.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from deployments.errors import MotetError, fail
from serve_app.gateway.settings import AdmissionSettings

FIRST_SHARE = 0.2
"""What is assumed at first counts as much as this share of the memory."""

LENGTH_MEMORY_SECONDS_OF_AUDIO = 120.0
"""How much predicted audio the correction of predictions remembers."""

FIRST_TURN_SECONDS = 1.0
"""Of audio: how much one turn of a stream is assumed to bring before any was measured."""

LEAST_RATE = 1e-3
"""Audio seconds per second; an engine that stands still must not divide by zero."""

LEAST_LENGTH, MOST_LENGTH = 0.25, 4.0
"""How far predictions are corrected: one odd text must not change what all others cost beyond this."""

MARGIN = 1.1
"""Measured speeds waver. A client that was told a moment too early would be refused twice."""

LONGEST_TURN = 2.0
"""A silence counts against a speed up to this many times the memory, or the usual time of a turn. A slower engine is still
learned, from turn to turn; one that stood still for a while and goes on is as fast as before."""

ROUNDING = 1e-6
"""Seconds of audio, far below a sample, by which sums of floats may be off."""

PAUSED_S = 1.0
PAUSED_REACH_SECONDS = 10.0
"""Of audio: what a client that asks for nothing now may come back for at once."""


@dataclass(frozen=True, slots=True)
class QueueReport:
    """One placement's queue, for metrics and `/readyz`.

    `queued_seconds` is audio still to be made, `speed` audio seconds per second, `wait_s` what a new request's first sound
    is predicted to wait for its turn, `refused` how many requests were turned away so far.
    """

    open: int
    queued_seconds: float
    speed: float
    wait_s: float
    refused: int


class Ticket:
    """One admitted request's place in the queue. Its holder must `close` it, whatever happens.

    It `waits` while an engine owes it sound, from the start and after `wants`, until it `rests`. Of the seconds of audio that
    are `left` to be made it never has more than its `reach` queued.
    """

    def __init__(
        self, admission: Admission, queue: _Queue, key: str | None, asked: float, left: float, reach: float
    ) -> None:
        self.key = key
        self.asked = asked
        self.left = left
        self.reach = reach
        self.made_seconds = 0.0
        self.waits = True
        self._resting_since_s = 0.0
        self._playing_since_s = 0.0
        self.queue = queue
        self._admission = admission

    @property
    def placement(self) -> str:
        """The placement in whose queue the request is. Set it when another one answers: what is left waits there."""
        return self.queue.placement

    @placement.setter
    def placement(self, placement: str) -> None:
        if self.open and placement != self.queue.placement:
            self._admission.move(self, placement)

    @property
    def silent(self) -> bool:
        """Whether the request still waits for its first sound."""
        return self.made_seconds == 0.0

    @property
    def reach_now(self) -> float:
        """The most seconds of audio that count as waiting to be made. A client that has asked for nothing for `PAUSED_S`, as
        one that stopped reading, counts for at most `PAUSED_REACH_SECONDS`."""
        paused = not self.waits and self._admission.clock() - self._resting_since_s >= PAUSED_S
        return min(self.reach, PAUSED_REACH_SECONDS) if paused else self.reach

    @property
    def queued(self) -> float:
        """Seconds of audio that count as waiting to be made."""
        return min(self.left, self.reach_now)

    @property
    def open(self) -> bool:
        """Whether the request still holds its place."""
        return self in self.queue.tickets

    def lasts_s(self, now_s: float) -> float:
        """How long the listener's sound lasts from now if it is played as it is made; 0 for one who has none yet."""
        return 0.0 if self.silent else self._playing_since_s + self.made_seconds - now_s

    def adds(self, seconds: float) -> None:
        """About so many more seconds of audio are to be made than were asked for: a text went on. Raises an `overloaded`
        `MotetError`, as `Admission.admit` does, when the key holds too much for more to be queued."""
        if self.open:
            self._admission.add(self, seconds)

    def wants(self) -> None:
        """The next sound was asked for."""
        self._set_waits(True)

    def rests(self) -> None:
        """It came, from an engine or from a cache, and nothing more is asked for yet."""
        self._set_waits(False)

    def _set_waits(self, waits: bool) -> None:
        if self.open and waits != self.waits:
            self.queue.tick(self._admission.clock())
            self.waits = waits
            self._resting_since_s = self._admission.clock()

    def made(self, seconds: float) -> None:
        """Seconds of the request's audio were made."""
        if self.open and seconds > 0:
            now_s = self._admission.clock()
            self.queue.made(self, seconds, now_s)
            if self.silent:
                self._playing_since_s = now_s
            self.made_seconds += seconds
            self.left = max(0.0, self.left - seconds)

    def complete(self) -> None:
        """All of it was made: later predictions are corrected by how long it turned out. Closes the ticket."""
        if self.open:
            self.queue.length.passes(self.asked)
            self.queue.length.add(self.made_seconds)
            self.close()

    def close(self) -> None:
        """Gives the place back. Safe to call twice."""
        if self.open:
            self._admission.forget(self)


class Admission:
    """Every placement's queue, and what each key holds of it."""

    def __init__(self, settings: AdmissionSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self.clock = clock
        self._queues: dict[str, _Queue] = {}
        self._keys: dict[str, dict[Ticket, None]] = {}

    def admit(
        self,
        placements: Sequence[str],
        key: str | None,
        seconds: float,
        max_wait_s: float | None = None,
        reach: float = math.inf,
    ) -> Ticket:
        """A place in the queue of the first of `placements` that has room, for a request of about `seconds` of audio.

        `key` names who asks; requests without one share no limit of their own. `max_wait_s` holds instead of the settings'.
        A text that is still being written has no more than `reach` seconds of audio queued, however far it is ahead. Raises
        an `overloaded` `MotetError` with code `queue_full` and the seconds after which the same request would get in if
        nobody else came, at most the settings' `max_retry_after_s`.
        """
        assert seconds >= 0 and math.isfinite(seconds), seconds
        refusals = []
        for queue in map(self._queue, placements):
            ticket = Ticket(self, queue, key, seconds, queue.expected(seconds), reach)
            refusal = self._refusal(queue, key, ticket.queued, max_wait_s or self.settings.max_wait_s)
            if refusal is None:
                return self._join(ticket)
            queue.refused += 1
            refusals.append(refusal)
        raise self._refused(min(refusals, key=lambda refusal: refusal.seconds))

    def add(self, ticket: Ticket, seconds: float) -> None:
        """An open ticket's text went on. See `Ticket.adds`."""
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
        """Another placement answers an open ticket's request."""
        ticket.queue.tick(self.clock())
        del ticket.queue.tickets[ticket]
        ticket.queue = self._queue(placement)
        ticket.queue.tickets[ticket] = None

    def _queue(self, placement: str) -> _Queue:
        queue = self._queues.get(placement)
        if queue is None:
            queue = self._queues[placement] = _Queue(placement, self.settings, self.clock())
        queue.tick(self.clock())
        return queue

    def _refusal(self, queue: _Queue, key: str | None, left: float, max_wait_s: float) -> _Refusal | None:
        """Why a request does not get into a queue: of several reasons, the one that lasts longest."""
        wait = _wait_refuses(queue, max_wait_s)
        refusals = [*self._queue_refuses(queue, left), *self._key_refuses(key, left), *wait]
        return max(refusals, key=lambda refusal: refusal.seconds, default=None)

    def _refused(self, refusal: _Refusal) -> MotetError:
        return refusal.error(self.settings.max_retry_after_s)

    def _join(self, ticket: Ticket) -> Ticket:
        ticket.queue.tickets[ticket] = None
        if ticket.key is not None:
            self._keys.setdefault(ticket.key, {})[ticket] = None
        return ticket

    def forget(self, ticket: Ticket) -> None:
        """Takes an open ticket out of the books."""
        ticket.queue.tick(self.clock())
        del ticket.queue.tickets[ticket]
        if ticket.key is None:
            return
        del self._keys[ticket.key][ticket]
        if not self._keys[ticket.key]:
            del self._keys[ticket.key]

    def snapshot(self) -> dict[str, QueueReport]:
        """Every placement that was ever asked for."""
        return {name: queue.report(self.clock()) for name, queue in self._queues.items()}

    def queued_seconds_of(self, key: str) -> float:
        """Seconds of audio that a key still waits for."""
        return sum(ticket.queued for ticket in self._keys.get(key, ()))

    @property
    def keys(self) -> int:
        """How many keys hold a place now."""
        return len(self._keys)

    def _target(self, limit: float, left: float) -> float:
        """How much of a limit others may hold for a request to fit."""
        allowance = self.settings.short_seconds_of_audio if left <= self.settings.short_seconds_of_audio else 0.0
        return limit + allowance - min(left, limit)

    def _queue_refuses(self, queue: _Queue, left: float) -> Iterable[_Refusal]:
        limit = self.settings.max_queued_seconds_of_audio
        target = self._target(limit, left)
        if _held(queue.tickets, limit) > target + ROUNDING:
            cause = f"{queue.queued_seconds:.0f} s of audio wait to be made, and this request adds {left:.0f} s."
            yield _Refusal(cause, queue.seconds_until(target, queue.tickets, limit))

    def _key_refuses(self, key: str | None, left: float, besides: Ticket | None = None) -> Iterable[_Refusal]:
        if key is None:
            return
        limit = self.settings.max_queued_seconds_of_audio_per_key
        mine = [ticket for ticket in self._keys.get(key, ()) if ticket is not besides]
        target = self._target(limit, left)
        if (held := _held(mine, limit)) > target + ROUNDING:
            cause = f"This API key already waits for {held:.0f} s of audio, and this request adds {left:.0f} s."
            yield _Refusal(cause, _key_seconds_until(target, mine, limit, held))


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why a request does not get in, and for how long."""

    cause: str
    seconds: float

    def error(self, most_s: float) -> MotetError:
        retry_after_s = min(self.seconds * MARGIN, most_s)
        remedy = f"Try again in {max(1, math.ceil(retry_after_s))} s."
        return fail("overloaded", self.cause, remedy, code="queue_full", retry_after_s=retry_after_s)


class SessionPlaces:
    """How many speech sessions are open at once: each is held by its client, whether or not it has anything to say."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """A place until it is left. Raises `MotetError` (overloaded) when there is none."""
        if self._open >= self._most:
            cause = f"{self._open} speech sessions are open, as many as this service takes."
            raise fail("overloaded", cause, "Try again in a moment.", code="too_many_sessions")
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1


class _Rate:
    """An amount per second, or per whatever else passes; what is old counts exponentially less.

    An amount counts as made evenly since the one before it, so its size may be large against the memory. What passes without
    one counts up to `longest` times the memory, or what passed before the last one.
    """

    def __init__(self, first: float, memory: float, longest: float = math.inf) -> None:
        self._memory = memory
        self._longest = longest
        self._span = memory * FIRST_SHARE
        self._amount = first * self._span
        self._pending = 0.0
        self._usual = 0.0

    @property
    def value(self) -> float:
        """The amount per second. Time since the last amount lowers it once it is longer than that one took."""
        kept = math.exp(-max(0.0, self._pending - self._usual) / self._memory)
        return max(LEAST_RATE, self._amount * kept / self._span_after(kept))

    def passes(self, span: float) -> None:
        """Time in which the amount could grow went by."""
        self._pending = min(self._pending + span, self._longest * max(self._memory, self._usual))

    def add(self, amount: float) -> None:
        """The amount grew."""
        kept = math.exp(-self._pending / self._memory)
        weight = self._memory * (1 - kept) / self._pending if self._pending else 1.0
        self._amount = self._amount * kept + amount * weight
        self._span = self._span_after(kept)
        self._pending, self._usual = 0.0, self._pending or self._usual

    def _span_after(self, kept: float) -> float:
        return self._memory + (self._span - self._memory) * kept


class _Queue:
    """The open tickets of one placement, and how fast they get done.

    Two speeds, since a listener in real time holds its own stream back but not the first sound of others: `speed` is all
    audio made per second with an open ticket and tells how fast the queue shrinks; `turns` is how many chunks get out per
    second while somebody waits for one, so while the engine is busy, and tells how long a new request waits for its own.
    """

    def __init__(self, placement: str, settings: AdmissionSettings, now_s: float) -> None:
        self.placement = placement
        self.tickets: dict[Ticket, None] = {}
        self.refused = 0
        self.speed = _Rate(settings.first_speed, settings.speed_memory_s, LONGEST_TURN)
        self.turns = _Rate(settings.first_speed / FIRST_TURN_SECONDS, settings.speed_memory_s, LONGEST_TURN)
        self.length = _Rate(1.0, LENGTH_MEMORY_SECONDS_OF_AUDIO)
        self._now_s = now_s

    @property
    def queued_seconds(self) -> float:
        """Audio that waits to be made."""
        return sum(ticket.queued for ticket in self.tickets)

    @property
    def wait_s(self) -> float:
        """How long a new request's first sound waits for the turns before its own: those of requests without sound, and of
        listeners whose sound would not last until then. 0 when there are none, however slow the engine: else a slow one
        would never be measured again."""
        turn_s = 1 / self.turns.value
        wait_s = 0.0
        for lasts_s in sorted(ticket.lasts_s(self._now_s) for ticket in self.tickets if ticket.waits):
            if lasts_s > wait_s:
                break
            wait_s += turn_s
        return wait_s

    def expected(self, seconds: float) -> float:
        """A prediction, corrected by how earlier ones turned out."""
        return seconds * min(MOST_LENGTH, max(LEAST_LENGTH, self.length.value))

    def tick(self, now_s: float) -> None:
        """Lets time pass, for the speeds that it counts for."""
        passed = max(0.0, now_s - self._now_s)
        if self.tickets:
            self.speed.passes(passed)
        if self._somebody_waits:
            self.turns.passes(passed)
        self._now_s = now_s

    def made(self, ticket: Ticket, seconds: float, now_s: float) -> None:
        """A ticket gets audio."""
        self.tick(now_s)
        if self._somebody_waits:
            self.turns.add(1.0)
        self.speed.add(seconds)

    @property
    def _somebody_waits(self) -> bool:
        """Whether a listener has no sound while an engine owes it some."""
        return any(ticket.waits and ticket.lasts_s(self._now_s) <= 0 for ticket in self.tickets)

    def report(self, now_s: float) -> QueueReport:
        """The queue as it is."""
        self.tick(now_s)
        return QueueReport(len(self.tickets), self.queued_seconds, self.speed.value, self.wait_s, self.refused)

    def seconds_until(self, target: float, wanted: Collection[Ticket], limit: float) -> float:
        """How long until the `wanted` tickets hold no more than `target` of a limit, when all here get equal shares."""
        share = _share_until(target, wanted, limit)
        return sum(min(ticket.left, share) for ticket in self.tickets) / self.speed.value


def _wait_refuses(queue: _Queue, max_wait_s: float) -> Iterable[_Refusal]:
    if (over := queue.wait_s - max_wait_s) > 0:
        yield _Refusal(f"A new request would wait {queue.wait_s:.1f} s for its first sound.", over)


def _held(tickets: Iterable[Ticket], limit: float) -> float:
    """What tickets hold of a limit."""
    return sum(min(ticket.queued, limit) for ticket in tickets)


def _share_until(target: float, tickets: Collection[Ticket], limit: float) -> float:
    """The seconds of audio that each must get until together they hold no more than `target` of a limit."""
    shares = [(ticket.left, min(ticket.reach_now, limit)) for ticket in tickets]

    def held(share: float) -> float:
        return sum(min(max(left - share, 0.0), most) for left, most in shares)

    # What is held falls in straight lines between these shares.
    corners = sorted({0.0, *(left for left, _ in shares), *(left - most for left, most in shares if left > most)})
    corner = bisect_left(corners, True, key=lambda share: held(share) <= target)
    if corner == 0:
        return 0.0
    low, high = corners[corner - 1], corners[corner]
    return low + (high - low) * (held(low) - target) / (held(low) - held(high))


def _key_seconds_until(target: float, mine: Iterable[Ticket], limit: float, held: float) -> float:
    """How long until a key holds no more than `target`: at the latest when one placement alone has made the difference,
    or when all of them have made everything."""
    by_queue: dict[_Queue, list[Ticket]] = {}
    for ticket in mine:
        by_queue.setdefault(ticket.queue, []).append(ticket)
    everything = max(queue.seconds_until(0.0, tickets, limit) for queue, tickets in by_queue.items())
    alone = [
        queue.seconds_until(_held(tickets, limit) - (held - target), tickets, limit)
        for queue, tickets in by_queue.items()
        if _held(tickets, limit) >= held - target
    ]
    return min([everything, *alone])
