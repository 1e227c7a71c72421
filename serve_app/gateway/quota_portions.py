"""What one of several gateway replicas holds of each key's quotas, and decides from.

The ledger (`deployments/replica/quota_ledger.py`) lends it portions. Of a quota that is in use, a gateway keeps an equal part
of `UNUSED_SHARE` in reserve, so that all gateways together leave no more than that share unused; what requests wait for comes
on top. A quota that was not used for `IDLE_S` is returned. Requests are counted before they begin, and only from the portion.
Audio is charged after it was made, so a request may begin while the ledger had something left at the last exchange.

While the ledger is away, a gateway goes on with what it holds, and its portion refills at an equal part of the limit: all
gateways together stay within the limit. If only one of them has lost the ledger, that part comes on top.

Pure arithmetic on a clock that is passed in; it belongs to one event loop, as the keys do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from deployments.replica.quota_ledger import MINUTE_S, Grant, LeaseAnswer, LeaseReport, PortionReport

UNUSED_SHARE = 0.05
"""Of a limit: what all gateways together may hold and not use."""
IDLE_S = 2.0
"""A quota that was not used for so long is returned."""
ASK_AGAIN_S = 0.5
"""When the ledger has nothing left, it is not asked again for so long, or until there is something."""


class Portion:
    """A gateway's portion of a quota (`Quota`). `whole`: it is used in units of one, as requests are."""

    def __init__(self, name: str, per_minute: float | None, book: PortionBook, *, whole: bool) -> None:
        self.name = name
        self.per_minute = per_minute
        self.whole = whole
        self.awaited = 0.0
        """What requests wait for."""
        self._book = book
        self._held = 0.0
        self._reserve: float | None = None
        """What the ledger had left at the last exchange; None before the first one."""
        self._at_s = self._used_s = self._ask_s = self._opens_s = -math.inf

    @property
    def left(self) -> float | None:
        """About what all gateways have left together: this portion, and what the ledger has; None without a limit."""
        if self.per_minute is None:
            return None
        self._refill()
        return self._held + self._reserve_now(self.per_minute)

    def change(self, per_minute: float | None) -> None:
        """Sets another limit. What the ledger has left of it is known with the next exchange."""
        self.per_minute, self._reserve = per_minute, None

    def take(self, amount: float) -> None:
        """Takes an amount, whether or not it is there."""
        if self.per_minute is not None:
            self._refill()
            self._held -= amount
            self.use()

    def wait_s(self, amount: float = 0.0) -> float:
        """In how many seconds there is `amount`; 0 if it is there now, and for 0 if anything is left."""
        if self.per_minute is None:
            return 0.0
        self._refill()
        if self._has(amount, self._held):
            return 0.0
        rate = self._book.own_rate(self.per_minute)
        if self._book.is_alone:
            return (amount - self._held) / rate
        if (opens_in_s := self._opens_s - self._book.clock()) > 0:
            return opens_in_s  # a new ledger does not know yet what there is
        known = self._held + self._reserve_now(self.per_minute)
        if not self.whole and known > 0:
            return 0.0
        return max(amount - known, 0.0) / rate or ASK_AGAIN_S

    def is_short(self, amount: float) -> bool:
        """Whether the ledger may have `amount`, which is not here."""
        if self.per_minute is None or self._book.is_alone:
            return False
        return not self._has(amount, self._held) and self._book.clock() >= self._ask_s

    def use(self) -> None:
        """The quota is in use: its portion is kept up, and what was used of it is reported."""
        if self.per_minute is not None:
            self._used_s = self._book.clock()
            self._book.begin(self)

    @property
    def _idle(self) -> bool:
        return not self.awaited and self._book.clock() - self._used_s >= IDLE_S

    @property
    def is_done(self) -> bool:
        """Whether there is nothing to report until it is used again. Until the quota has refilled, another ledger in place of
        this one must hear of it."""
        return self.per_minute is None or (
            self._idle and self._held == 0.0 and self._reserve_now(self.per_minute) >= self.per_minute
        )

    def report(self) -> PortionReport:
        """The report for the ledger. Returned amounts leave the portion even if the report is lost, so nothing is
        returned to a ledger that did not answer the last exchange."""
        assert self.per_minute is not None, "there is no limit"
        self._refill()
        share = 0.0 if self._idle else self.per_minute * UNUSED_SHARE / self._book.gateways
        target = self.awaited + (math.floor(share) if self.whole else share)
        returned = 0.0 if self._book.is_alone else max(0.0, self._held - target)
        self._held -= returned
        wanted = max(0.0, target - max(0.0, self._held))
        return PortionReport(self.per_minute, self._held, wanted, returned, self.whole)

    def settle(self, grant: Grant, opens_in_s: float) -> None:
        """What the ledger lent, which may be nothing."""
        self._held += grant.amount
        self._reserve, self._at_s = grant.reserve, self._book.clock()
        self._ask_s, self._opens_s = -math.inf, self._at_s + opens_in_s
        if self.per_minute is not None and not self._has(self.awaited, self._held):
            wait_s = max(self.awaited - self._held - grant.reserve, 0.0) / (self.per_minute / MINUTE_S)
            self._ask_s = self._at_s + max(opens_in_s, min(wait_s, ASK_AGAIN_S))

    @staticmethod
    def _has(amount: float, held: float) -> bool:
        return held > 0 and held >= amount

    def _reserve_now(self, per_minute: float) -> float:
        """What the ledger has left, if no other gateway asked for it."""
        if self._reserve is None:
            return per_minute
        since_s = self._book.clock() - self._at_s
        return min(per_minute, self._reserve + since_s * per_minute / MINUTE_S)

    def _refill(self) -> None:
        """Without the ledger, the portion grows at an equal part of the limit, up to that part of a minute's amount."""
        if self.per_minute is None or not self._book.is_alone:
            return
        now_s = self._book.clock()
        since_s = now_s - max(self._at_s, self._book.alone_since_s)
        self._at_s = now_s
        grown = self._held + max(0.0, since_s) * self._book.own_rate(self.per_minute)
        self._held = min(grown, max(self._held, self.per_minute / self._book.gateways))


class PortionBook:
    """The portions of one of several `gateways`. `begin` is called when there is something to exchange again."""

    def __init__(self, gateway: str, gateways: int, clock: Callable[[], float]) -> None:
        self.gateways = gateways
        self.clock = clock
        self.alone_since_s = math.inf
        self.on_begin: Callable[[], None] = lambda: None
        self._gateway = gateway
        self._ledger: str | None = None
        self._reports = self._answered = 0
        self._used: dict[str, Portion] = {}

    @property
    def is_alone(self) -> bool:
        """Whether the ledger does not answer."""
        return self.alone_since_s < math.inf

    @property
    def in_use(self) -> bool:
        """Whether there is something to exchange."""
        return bool(self._used)

    def portion(self, name: str, per_minute: float | None, *, whole: bool) -> Portion:
        """A gateway's portion of a quota: the one in use if there is one, since the ledger knows it by its name."""
        if known := self._used.get(name):
            known.change(per_minute)
            return known
        return Portion(name, per_minute, self, whole=whole)

    def own_rate(self, per_minute: float) -> float:
        """What there is more of a quota each second, here or in the ledger."""
        return per_minute / MINUTE_S / (self.gateways if self.is_alone else 1)

    def begin(self, portion: Portion) -> None:
        """A portion is in use."""
        self._used[portion.name] = portion
        self.on_begin()

    def report(self) -> LeaseReport:
        """All portions in use, for the ledger."""
        limited = {name: each for name, each in self._used.items() if each.per_minute is not None}
        portions = {name: each.report() for name, each in limited.items()}
        self._reports += 1
        return LeaseReport(self._gateway, self._ledger, portions, self._reports, self._answered)

    def settle(self, answer: LeaseAnswer) -> None:
        """The ledger answered."""
        for portion, grant in self._granted(answer):
            portion.settle(grant, answer.opens_in_s)
        self._ledger, self.alone_since_s, self._answered = answer.ledger, math.inf, self._reports
        self._used = {name: each for name, each in self._used.items() if not each.is_done}

    def lose_ledger(self) -> None:
        """The ledger did not answer."""
        self.alone_since_s = min(self.alone_since_s, self.clock())

    def _granted(self, answer: LeaseAnswer) -> Iterator[tuple[Portion, Grant]]:
        return ((self._used[name], grant) for name, grant in answer.grants.items() if name in self._used)
