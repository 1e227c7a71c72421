"""Quotas of an API key: an amount for each minute."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from deployments.replica.quota_ledger import MINUTE_S


class Quota(Protocol):
    """An amount for each minute, as the key that has it sees it: of one gateway (`QuotaBucket`), or what one of several may
    use of it (`Portion`)."""

    per_minute: float | None
    """None: without a limit."""

    @property
    def left(self) -> float | None:
        """What may be taken now; negative while something is paid back, None without a limit."""

    def change(self, per_minute: float | None) -> None:
        """Sets another limit. It does not refill the quota."""

    def take(self, amount: float) -> None:
        """Takes an amount, whether or not it is there."""

    def wait_s(self, amount: float = 0.0) -> float:
        """In how many seconds there is `amount`; 0 if it is there now, and for 0 if anything is left."""


class QuotaBucket:
    """An amount that refills evenly within a minute. Without a limit it is never used up.

    More may be taken than is there; then nothing is left until that is paid back. `clock` gives seconds.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._left = per_minute or 0.0
        self._at_s = clock()

    @property
    def left(self) -> float | None:
        """What may be taken now; negative while something is paid back, None without a limit."""
        if self.per_minute is None:
            return None
        now_s = self._clock()
        refilled = self._left + (now_s - self._at_s) * self.per_minute / MINUTE_S
        self._left, self._at_s = min(self.per_minute, refilled), now_s
        return self._left

    def change(self, per_minute: float | None) -> None:
        """Sets another limit and keeps the share that is left: changing the limit does not refill the quota."""
        left, before = self.left, self.per_minute
        share = left / before if left is not None and before else 1.0
        self.per_minute = per_minute
        self._left, self._at_s = (per_minute or 0.0) * share, self._clock()

    def take(self, amount: float) -> None:
        """Takes an amount, whether or not it is there."""
        if self.left is not None:
            self._left -= amount

    def wait_s(self, amount: float = 0.0) -> float:
        """In how many seconds there is `amount`; 0 if it is there now, and for 0 if anything is left."""
        left = self.left
        if left is None or self.per_minute is None or (left > 0 and left >= amount):
            return 0.0
        return (amount - left) * MINUTE_S / self.per_minute
