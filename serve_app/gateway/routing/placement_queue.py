"""The queue of one placement, how fast it gets done, and how long a share of it takes.

Pure arithmetic on times that are passed in; it belongs to one thread.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

FIRST_SHARE = 0.2
"""The speed assumed at first weighs as much as this share of the memory."""

LENGTH_MEMORY_SECONDS_OF_AUDIO = 120.0
"""How much predicted audio the correction of predictions remembers."""

FIRST_TURN_SECONDS = 1.0
"""Seconds of audio that one turn of a stream is assumed to bring before any was measured."""

MIN_RATE = 1e-3
"""Audio seconds per second: an engine that stands still must not cause a division by zero."""

MIN_LENGTH, MAX_LENGTH = 0.25, 4.0
"""Bounds of the correction of predictions, so that one unusual text changes the cost of others only within these."""

MOST_STARVED = 0.1
"""Of the listeners of a placement that keeps up. A chunk that comes a moment late may leave one without audio."""
SUSTAINED_SHARE = 0.8
"""Of the audio that a placement makes while listeners starve, so much is promised to listeners afterwards."""
SUSTAINED_MEMORY_S = 300.0
"""After so long without starved listeners, twice as many are let in: replicas may have been added. Simulated with 250 streams
on three classes (`motet plan`): a shorter memory lets more streams in than can be spoken, again and again."""
MOST_DOUBLINGS = 20
STARVED_S = 1.0
"""So long after listeners had no audio left, a placement counts as one that does not keep up."""
LOOK_EVERY_S = 0.25
"""How often a queue looks for starved listeners: each look costs time for each of them."""

MAX_TURN = 2.0
"""Silence lowers a measured speed for at most this many times the memory, or the usual time of a turn. A slower engine is
still learned, from turn to turn; one that stood still for a while and goes on counts as fast as before."""


@dataclass(frozen=True, slots=True)
class QueueReport:
    """One placement's queue, for metrics and `/readyz`.

    `open` requests are in it. `queued_seconds` is audio still to be made, `speed` audio seconds per second, `wait_s` the
    predicted wait of a new request for its first audio, `refused` the number of requests refused so far.
    """

    open: int
    queued_seconds: float
    speed: float
    wait_s: float
    refused: int


class QueuedRequest(Protocol):
    """A request in a queue. Seconds are of audio."""

    key: str | None
    """Whose request it is."""
    waits: bool
    """Whether an engine owes it audio."""
    left: float
    """Audio that is still to be made."""

    @property
    def reach_now(self) -> float:
        """The most audio that counts as queued."""

    @property
    def queued(self) -> float:
        """Audio that counts as queued: what is left, up to the reach."""

    def buffered_seconds(self, now_s: float) -> float:
        """Audio that its client has not played yet; 0 before the first audio, and negative for how long it has had none."""


Request = TypeVar("Request", bound=QueuedRequest)


class Rate:
    """An amount per second, or per unit of another span, with exponential forgetting.

    An amount counts as made evenly since the one before it, so it may be large compared with the memory. A span without an
    amount counts up to `longest` times the memory, or the span before the last amount.
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
        """The amount per second. It falls when nothing was added for longer than the previous interval."""
        kept = math.exp(-max(0.0, self._pending - self._usual) / self._memory)
        return max(MIN_RATE, self._amount * kept / self._span_after(kept))

    def passes(self, span: float) -> None:
        """Adds a span in which the amount could grow."""
        self._pending = min(self._pending + span, self._longest * max(self._memory, self._usual))

    def add(self, amount: float) -> None:
        """Adds to the amount."""
        kept = math.exp(-self._pending / self._memory)
        weight = self._memory * (1 - kept) / self._pending if self._pending else 1.0
        self._amount = self._amount * kept + amount * weight
        self._span = self._span_after(kept)
        self._pending, self._usual = 0.0, self._pending or self._usual

    def _span_after(self, kept: float) -> float:
        return self._memory + (self._span - self._memory) * kept


class PlacementQueue(Generic[Request]):
    """The open tickets of one placement, and how fast they get done.

    It measures two speeds, since a client that plays in real time holds back its own stream but not the first audio of
    others. `speed` is the audio made per second while a ticket is open: it predicts how fast the queue shrinks. `turns` is
    the number of chunks made per second while a client waits for one, so while the engine is busy: it predicts the wait of a
    new request.
    """

    def __init__(self, placement: str, first_speed: float, memory_s: float, now_s: float) -> None:
        self.placement = placement
        self.tickets: dict[Request, None] = {}
        self.refused = 0
        self.speed = Rate(first_speed, memory_s, MAX_TURN)
        self.turns = Rate(first_speed / FIRST_TURN_SECONDS, memory_s, MAX_TURN)
        self.length = Rate(1.0, LENGTH_MEMORY_SECONDS_OF_AUDIO)
        self._now_s = self._looked_at_s = now_s
        self._starved_at_s = -math.inf
        self._made_at_s = now_s
        self._sustained = math.inf
        """Listeners that the placement could serve when some last had no audio left: no more than the seconds of audio that
        it made in a second."""

    @property
    def queued_seconds(self) -> float:
        """Seconds of audio that wait to be made."""
        return sum(ticket.queued for ticket in self.tickets)

    @property
    def wait_s(self) -> float:
        """How long a new request waits for its first audio: for the turns of requests without audio, and of those whose audio
        would not last until then. 0 without such requests, however slow the engine: a slow one must be measured again."""
        turn_s = 1 / self.turns.value
        wait_s = 0.0
        for buffered_seconds in sorted(ticket.buffered_seconds(self._now_s) for ticket in self.tickets if ticket.waits):
            if buffered_seconds > wait_s:
                break
            wait_s += turn_s
        return wait_s

    @property
    def is_full(self) -> bool:
        """Whether one more listener would be too many for the audio that the placement makes. A new request would get its
        first audio soon, and then wait in vain."""
        doublings = min((self._now_s - self._starved_at_s) / SUSTAINED_MEMORY_S, MOST_DOUBLINGS)
        return len(self.tickets) >= self._sustained * 2**doublings

    def expected(self, seconds: float) -> float:
        """A prediction in seconds of audio, corrected by the outcome of earlier ones."""
        return seconds * min(MAX_LENGTH, max(MIN_LENGTH, self.length.value))

    def tick(self, now_s: float) -> None:
        """Advances the clock of the speeds that are being measured."""
        passed = max(0.0, now_s - self._now_s)
        if self.tickets:
            self.speed.passes(passed)
        if self._any_waits:
            self.turns.passes(passed)
        self._now_s = now_s
        if now_s - self._looked_at_s >= LOOK_EVERY_S:
            self._look_for_starved(now_s)

    def _look_for_starved(self, now_s: float) -> None:
        """Learns how many listeners are too many: when some of those who have begun to listen wait for audio, and have none
        left."""
        self._looked_at_s = now_s
        lasting = [each.buffered_seconds(now_s) for each in self.tickets if each.waits]
        playing = [seconds for seconds in lasting if seconds]
        if sum(seconds < 0 for seconds in playing) > MOST_STARVED * len(playing):
            self._sustained, self._starved_at_s = max(1.0, SUSTAINED_SHARE * self.speed.value), now_s

    def record_made(self, seconds: float, now_s: float) -> None:
        """A ticket received `seconds` of audio."""
        self.tick(now_s)
        self._made_at_s = now_s
        if self._any_waits:
            self.turns.add(1.0)
        self.speed.add(seconds)

    @property
    def _any_waits(self) -> bool:
        """Whether a client has no audio left while an engine owes it some."""
        return any(ticket.waits and ticket.buffered_seconds(self._now_s) <= 0 for ticket in self.tickets)

    @property
    def listeners(self) -> list[str | None]:
        """The keys of the clients that wait for audio, or have some left to play."""
        return [each.key for each in self.tickets if each.waits or each.buffered_seconds(self._now_s) > 0]

    @property
    def silent_s(self) -> float:
        """How long ago the last audio was made; 0 if none is waited for."""
        return self._now_s - self._made_at_s if self._any_waits else 0.0

    @property
    def starves(self) -> bool:
        """Whether listeners had no audio left a moment ago."""
        return self._now_s - self._starved_at_s < STARVED_S

    def report(self, now_s: float) -> QueueReport:
        """The queue at `now_s`."""
        self.tick(now_s)
        return QueueReport(len(self.tickets), self.queued_seconds, self.speed.value, self.wait_s, self.refused)

    def first_end_s(self) -> float:
        """How long until the first of the requests is predicted to be complete, when all get equal shares."""
        return min((ticket.left for ticket in self.tickets), default=0.0) * len(self.tickets) / self.speed.value

    def seconds_until(self, target: float, wanted: Collection[Request], limit: float) -> float:
        """How many seconds until the `wanted` tickets hold at most `target` of a limit, if all tickets get equal shares."""
        share = share_until(target, wanted, limit)
        return sum(min(ticket.left, share) for ticket in self.tickets) / self.speed.value


def held_of(tickets: Iterable[QueuedRequest], limit: float) -> float:
    """Seconds of audio that tickets hold of a limit. Each ticket counts for at most the limit."""
    return sum(min(ticket.queued, limit) for ticket in tickets)


def share_until(target: float, tickets: Collection[QueuedRequest], limit: float) -> float:
    """The seconds of audio that each ticket must get until together they hold at most `target` of a limit."""
    shares = [(ticket.left, min(ticket.reach_now, limit)) for ticket in tickets]

    def held(share: float) -> float:
        return sum(min(max(left - share, 0.0), most) for left, most in shares)

    # `held` is piecewise linear; these are its corners.
    corners = sorted({0.0, *(left for left, _ in shares), *(left - most for left, most in shares if left > most)})
    corner = bisect_left(corners, True, key=lambda share: held(share) <= target)
    if corner == 0:
        return 0.0
    low, high = corners[corner - 1], corners[corner]
    return low + (high - low) * (held(low) - target) / (held(low) - held(high))
