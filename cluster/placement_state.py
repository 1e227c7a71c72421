"""What a gateway knows of a placement, and the order in which requests try the placements of a model.

Pure arithmetic on a clock that is passed in: the gateway runs it on its event loop, and `motet plan` on a simulated clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

SMOOTHING = 0.2
"""Weight of the newest time to first answer in its running mean."""


class PlacementState:
    """The state of one model on one hardware class. Several requests share it.

    `elastic` placements may have no replica. Unused placements are tried in the order of `cost`. `clock` is monotonic, in
    seconds.
    """

    def __init__(
        self, model: str, kind: str, *, elastic: bool = False, cost: float = 0.0, clock: Callable[[], float]
    ) -> None:
        self.name = f"{model}@{kind}"
        self.model = model
        self.kind = kind
        self.elastic = elastic
        self.cost = cost
        self.under_way = 0
        self.alive = True
        self.first_answer_s: float | None = None
        self._clock = clock
        self._suspected_s = -math.inf

    @property
    def sleeps(self) -> bool:
        """Whether it has no replica, and starts one on demand."""
        return self.elastic and not self.alive

    @property
    def is_unproven(self) -> bool:
        """Whether it has work, and has not answered since it started."""
        return self.first_answer_s is None and self.under_way > 0

    def expected_s(self, typical_s: float) -> float:
        """Expected time to the first answer, in seconds: the recent mean, for each request ahead and for this one.

        A placement that has not answered yet counts as fast as a typical one.
        """
        own_s = typical_s if self.first_answer_s is None else self.first_answer_s
        return own_s * (self.under_way + 1)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Counts a request as under way."""
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    def suspect(self) -> None:
        """A replica is lost: requests go to other placements until one answers."""
        self.alive, self._suspected_s = False, self._clock()

    def note_answer(self, asked_s: float, place_in_line: int) -> None:
        """Learns from the first answer to a request that was sent at `asked_s` (monotonic) as the `place_in_line`-th of those
        under way then."""
        if self.alive:
            self._learn((self._clock() - asked_s) / place_in_line)
        self.note_life(asked_s)  # after learning: the time to start a replica does not predict the next answer

    def note_life(self, asked_s: float) -> None:
        """A replica answered what was sent at `asked_s`. An answer to a question from before the last loss proves nothing."""
        if not self.alive and asked_s >= self._suspected_s:
            self.recover()

    def recover(self) -> None:
        """A replica answers again. It is a new one: the old one's times do not predict its own."""
        self.alive, self.first_answer_s = True, None

    def _learn(self, seconds: float) -> None:
        known_s = self.first_answer_s
        self.first_answer_s = seconds if known_s is None else known_s + SMOOTHING * (seconds - known_s)


State = TypeVar("State", bound=PlacementState)


def in_order(placed: Sequence[State]) -> list[State]:
    """The placements of a model. Those with a live replica come first, the one expected to answer first before the others;
    then the rest by cost. Equal ones keep their order."""
    known = [p.first_answer_s for p in placed if p.first_answer_s is not None]
    typical_s = min(known, default=1.0)
    return sorted(placed, key=lambda p: (not p.alive, p.expected_s(typical_s) if p.alive else p.cost))


def is_skipped(one: PlacementState, placed: Sequence[PlacementState]) -> bool:
    """Whether a request skips a placement: it has no replica, and another placement of the model has one."""
    return one.sleeps and any(other.alive for other in placed)


def best_of(placed: Sequence[State], besides: State | None = None) -> State:
    """The placement that is expected to answer first, other than `besides` if there is another. One without replicas is
    chosen only if no other one has any. One that has never answered gets a first request, and no others until it has
    answered: it may be many times slower than its neighbours."""
    ready = [each for each in in_order(placed) if not is_skipped(each, placed)]
    others = [each for each in ready if each is not besides] or ready
    living = [each for each in others if each.alive]
    if not living:
        return others[0]
    first = next(each for each in placed if each in living)
    return next((each for each in living if not each.is_unproven), first)


def in_turn(
    placed: Sequence[State], preferred: str | None = None, besides: str | None = None
) -> Iterator[tuple[State, bool]]:
    """Each placement once, the best of the rest at that moment, and whether it is the last. Only once: a request that crashes
    its replica must not crash it again and again."""
    tried: list[State] = []
    while rest := [each for each in in_order(placed) if each not in tried]:
        alive = (each for each in rest if each.alive)
        wanted = (each for each in alive if (each.name == preferred if preferred else each.name != besides))
        tried.append(next(wanted, rest[0]))
        yield tried[-1], len(rest) == 1
