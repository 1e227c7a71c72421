"""Whether a placement is offered more speech than it makes, and which API keys ask for more than their share.

A queue that is long for a moment is shared patience: it drains, and nobody is refused for it. A queue that stays long because
more is asked for than made is only delay for everyone, so requests then get in while the queue is short and are refused
otherwise. Keys that ask for no more than their fair share wait in any case, because the queue is not long for their sake.

Pure arithmetic on times that are passed in; it belongs to one thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

Key = TypeVar("Key")

REQUESTS_REMEMBERED = 20.0
"""Demand is measured over the time in which the placement makes this many requests of usual length; the usual one of a key
over as many times that as there are keys, since each sends few of them."""
MIN_MEMORY_S, MAX_MEMORY_S = 1.0, 60.0
LARGEST_SHARE = 0.25
"""Of what is made in that time, one request counts for at most so much: a book is not an overload."""
LENGTH_WEIGHT = 0.05
"""Weight of the newest request in the usual length."""
FIRST_SOUND_WEIGHT = 0.1
"""Weight of the newest undelayed first audio in the usual one."""
STANDS_S, STANDS_FIRST_SOUNDS = 1.0, 5.0
"""A placement that has made nothing for so long stands still, for instance because its replica is replaced. That is no
overload: requests wait for it."""
CHANCE = 2.0
"""A key asks for more than usual if its recent rate is above the usual one by so many standard deviations of requests that
come by chance (shot noise with an exponential memory: variance = rate * size / (2 * memory), Campbell's theorem)."""
LEAST_SHARE = 0.1
CALM = 0.9
"""An overload is over once less than this share of the placement's speed is asked for."""
DOUBLING_S = 300.0
"""In this time, a placement without a long queue is taken to make twice as much: replicas may have been added."""
MOST_DOUBLINGS = 20
LOWERED, LOWERED_EVERY_S = 0.9, 2.0
"""A long queue in spite of all refusals lowers what the placement is taken to make, once in this time."""
FORGOTTEN = 1e-3
"""Seconds of audio per second. A key that asks for less is forgotten."""


class Demand:
    """What is asked for, in seconds of audio per second."""

    __slots__ = ("_at_s", "_rate")

    def __init__(self) -> None:
        self._rate = self._at_s = 0.0

    def add(self, seconds: float, now_s: float, memory_s: float) -> None:
        """A request for `seconds` of audio."""
        self._rate = self.rate(now_s, memory_s) + seconds / memory_s
        self._at_s = now_s

    def rate(self, now_s: float, memory_s: float) -> float:
        """The recent mean."""
        return self._rate * math.exp(-max(0.0, now_s - self._at_s) / memory_s)


class KeyDemand:
    """What one key asks for: recently, and over a longer time."""

    __slots__ = ("recent", "usual")

    def __init__(self) -> None:
        self.recent, self.usual = Demand(), Demand()

    def add(self, seconds: float, now_s: float, recent_s: float, usual_s: float) -> None:
        """A request for `seconds` of audio, and the two memories in seconds."""
        self.recent.add(seconds, now_s, recent_s)
        self.usual.add(seconds, now_s, usual_s)


class OverloadRules(Protocol):
    """See `OverloadSettings`."""

    @property
    def queue_in_first_sounds(self) -> float:
        """A longer queue may be an overload."""

    @property
    def wait_in_first_sounds(self) -> float:
        """The longest wait of a request that is admitted during one."""

    @property
    def listeners_share(self) -> float:
        """Listeners during one, for each second of audio that is made in a second."""


@dataclass(frozen=True, slots=True)
class QueueLook:
    """A queue when a request comes: the wait for a first audio, the seconds of audio that are made in a second, how many
    clients listen, how many of them with the same key, and whether some of them have just run out of audio."""

    wait_s: float
    speed: float
    listeners: int
    own_listeners: int
    starves: bool
    silent_s: float = 0.0
    """How long ago the last audio was made, while some is waited for."""


class Overload:
    """The demand for one placement, which makes `speed` seconds of audio in a second."""

    def __init__(self, settings: OverloadRules) -> None:
        self._settings = settings
        self._all = Demand()
        self._keys: dict[str | None, KeyDemand] = {}
        self._usual_seconds = 0.0
        self._first_sound_s: float | None = None
        self._capacity = math.inf
        self._at_s, self._lowered_s = 0.0, -math.inf
        self.lasts = False
        """Whether more is asked for than made."""

    def note_first_sound(self, seconds: float) -> None:
        """A request that found no queue had its first audio after `seconds`."""
        known = self._first_sound_s
        self._first_sound_s = seconds if known is None else known + FIRST_SOUND_WEIGHT * (seconds - known)

    def note_request(self, key: str | None, seconds: float, speed: float, now_s: float) -> None:
        """A request came, whether it is admitted or not."""
        weight = LENGTH_WEIGHT if self._usual_seconds else 1.0
        self._usual_seconds += weight * (seconds - self._usual_seconds)
        memory_s = self._memory_s(speed)
        counted = min(seconds, LARGEST_SHARE * speed * memory_s)
        self._all.add(counted, now_s, memory_s)
        own = self._keys.setdefault(key, KeyDemand())
        own.add(counted, now_s, memory_s, self._memory_s(speed, len(self._keys)))

    def refuses(self, key: str | None, look: QueueLook, now_s: float) -> bool:
        """Whether a request of a key is refused because more is asked for than made, and its key asks for too much."""
        usual_s = self._first_sound_s
        if usual_s is None or look.silent_s > max(STANDS_S, STANDS_FIRST_SOUNDS * usual_s):
            return False
        is_long = look.starves or look.wait_s > self._settings.queue_in_first_sounds * usual_s
        self._learn(look.speed, now_s, is_long=is_long)
        most = self._capacity
        asked = self._all.rate(now_s, self._memory_s(look.speed))
        self.lasts = asked > (CALM if self.lasts else 1.0) * most
        if not self.lasts:
            return False
        rate, share = self._rate_and_share(key, asked, most, look.speed, now_s)
        if rate <= share:
            return False
        crowd = self._settings.listeners_share
        too_many = look.listeners >= crowd * most or look.own_listeners >= crowd * share
        return too_many or look.wait_s > self._settings.wait_in_first_sounds * usual_s * share / most

    def lasts_for_s(self, speed: float, now_s: float) -> float:
        """How long the overload lasts if nobody else asks for anything."""
        memory_s = self._memory_s(speed)
        most = max(CALM * self._capacity - LARGEST_SHARE * speed, LEAST_SHARE * self._capacity)
        return memory_s * math.log(max(1.0, self._all.rate(now_s, memory_s) / most))

    def _learn(self, speed: float, now_s: float, *, is_long: bool) -> None:
        """A placement whose queue is long makes as much as it can. Afterwards it may make more from moment to moment, until
        its queue is long again."""
        self._capacity *= 2 ** min((now_s - self._at_s) / DOUBLING_S, MOST_DOUBLINGS)
        self._at_s = now_s
        if is_long and now_s - self._lowered_s >= LOWERED_EVERY_S:
            self._capacity = max(speed, LOWERED * self._capacity) if self.lasts else speed
            self._lowered_s = now_s
        elif self.lasts:
            self._capacity = max(self._capacity, speed)

    def _memory_s(self, speed: float, keys: int = 1) -> float:
        return min(max(REQUESTS_REMEMBERED * keys * self._usual_seconds / speed, MIN_MEMORY_S), MAX_MEMORY_S)

    def _rate_and_share(
        self, key: str | None, asked: float, capacity: float, speed: float, now_s: float
    ) -> tuple[float, float]:
        """What a key asks for, and its fair share of the capacity."""
        usual_memory_s = self._memory_s(speed, len(self._keys))
        usual = {each: demand.usual.rate(now_s, usual_memory_s) for each, demand in self._keys.items()}
        for each in [each for each, rate in usual.items() if rate < FORGOTTEN and each != key]:
            del self._keys[each], usual[each]
        recent_memory_s = self._memory_s(speed)
        recent = {each: demand.recent.rate(now_s, recent_memory_s) for each, demand in self._keys.items()}
        chance = CHANCE * math.sqrt(self._usual_seconds / (2 * recent_memory_s))
        growth = {each: max(0.0, recent[each] - rate - chance * math.sqrt(rate)) for each, rate in usual.items()}
        rates = current_rates(usual, growth, asked)
        return rates[key], fair_share(rates.values(), capacity)


def current_rates(usual: Mapping[Key, float], growth: Mapping[Key, float], asked: float) -> dict[Key, float]:
    """What each key asks for now, in seconds of audio per second; together they ask for `asked`.

    A few requests of a key say little about what it asks for, and its usual rate follows slowly. What all ask for beyond
    their usual rates therefore counts first for those that recently asked for more than by chance, up to that `growth`: a key
    that asks for as much as ever is not blamed for another one that begins to ask for more."""
    all_growth = sum(growth.values())
    beyond = max(0.0, asked - sum(usual.values()))
    counted = min(1.0, beyond / all_growth) if all_growth else 0.0
    rates = {key: rate + counted * growth[key] for key, rate in usual.items()}
    part = asked / max(sum(rates.values()), FORGOTTEN)
    return {key: rate * part for key, rate in rates.items()}


def fair_share(rates: Iterable[float], capacity: float) -> float:
    """The most that each of several clients gets of a capacity when none gets more than it asks for, and what some leave is
    divided among the others (max-min fairness). Infinite if there is enough for all."""
    left = capacity
    ordered = sorted(rates)
    for served, rate in enumerate(ordered):
        share = left / (len(ordered) - served)
        if rate > share:
            return share
        left -= rate
    return math.inf
