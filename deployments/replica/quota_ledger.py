"""The ledger of quotas: the one place that knows how much of each quota several gateway replicas have left together.

A quota is a bucket of one minute's amount that refills evenly. The ledger lends parts of it, *portions*, to gateways, which
decide about requests from them alone. A gateway reports at most a few times a second, in one call for all its quotas: what it
has left of each portion, what it returns, and what it wants. What is neither left nor returned was used. So what gateways use
in a time is at most one bucket and what refills in that time: lent amounts do not refill. Audio is charged after it was made,
as with one gateway: a portion may be overdrawn; nothing is lent until the bucket is positive again.

A ledger that is replaced knows nothing. For `LISTENS_S` it lends nothing and hears what gateways hold. If one of them knew
another ledger, all buckets begin with what gateways return; otherwise the service is new, and they begin full. Portions of a
gateway that is gone count as used, and are forgotten after a minute. Pure arithmetic on a clock that is passed in.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from deployments.replica.error_log import ignore_unwritten_lines

MINUTE_S = 60.0
LISTENS_S = 3.0
"""Gateways find a new ledger well within this time: they try several times a second."""
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class PortionReport:
    """A gateway's report about its portion of one quota. `left` is negative if more was used than it had."""

    per_minute: float
    left: float
    wanted: float
    returned: float
    whole: bool
    """Whether only whole units are of use: of requests, but not of seconds of audio."""


@dataclass(frozen=True, slots=True)
class LeaseReport:
    """A gateway's portions by quota, and the number of this report. `ledger` is the ledger that answered it last, if any;
    `answered` is the number of the report that it answered."""

    gateway: str
    ledger: str | None
    portions: Mapping[str, PortionReport]
    number: int
    answered: int


@dataclass(frozen=True, slots=True)
class Grant:
    """What a portion grows by, and what the ledger still has of the quota: negative while it is paid back."""

    amount: float
    reserve: float


@dataclass(frozen=True, slots=True)
class LeaseAnswer:
    """The answer to a report, by quota. `opens_in_s`: until then nothing is lent."""

    ledger: str
    grants: Mapping[str, Grant]
    opens_in_s: float


@dataclass(slots=True)
class _Bucket:
    """A quota. What is left of it is `level`, and what gateways hold."""

    per_minute: float
    level: float
    at_s: float
    held: dict[str, float] = field(default_factory=dict)
    """What each gateway holds, as far as the ledger knows: no less than it really does."""
    charged: dict[str, float] = field(default_factory=dict)
    """The debt of each gateway that was taken from the bucket at its last report."""

    @property
    def full(self) -> float:
        """The highest level, beside what gateways hold."""
        return self.per_minute - sum(self.held.values())

    def refill(self, now_s: float) -> None:
        passed_s, self.at_s = max(0.0, now_s - self.at_s), max(now_s, self.at_s)
        self.level = min(self.level + passed_s * self.per_minute / MINUTE_S, max(self.full, self.level))

    def change(self, per_minute: float) -> None:
        """Sets another limit and keeps the share that is left: changing the limit does not refill the quota."""
        if per_minute != self.per_minute:
            self.level *= per_minute / self.per_minute
            self.per_minute = per_minute

    def settle(self, gateway: str, report: PortionReport, *, refilled: bool, lost: bool) -> float:
        """Records what a gateway holds. Returns its debt: the amount that brings an overdrawn portion back to 0.

        A gateway that had lost the ledger may hold more than it was lent: its part of what refilled. It is taken from the
        bucket if that has `refilled` in the meantime. If the last answer was `lost`, the gateway reports again the debt that
        was charged then.
        """
        held, kept = self.held.get(gateway, 0.0), max(0.0, report.left)
        debt, known = max(0.0, -report.left), self.charged.get(gateway, 0.0) if lost else 0.0
        beyond = max(0.0, kept + report.returned - held) if refilled else 0.0
        self.level += report.returned - max(0.0, debt - known) - beyond
        self.held[gateway], self.charged[gateway] = kept, max(debt, known)
        return debt

    def lend(self, gateway: str, report: PortionReport) -> float:
        """Lends what is there of the amount that is wanted."""
        amount = max(0.0, min(report.wanted, self.level))
        amount = float(math.floor(amount + ROUNDING)) if report.whole else amount
        self.level -= amount
        self.held[gateway] += amount
        return amount


class QuotaLedger:
    """All quotas. It belongs to one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, name: str | None = None) -> None:
        self._clock = clock
        self._name = name or uuid.uuid4().hex
        self._opens_s = self._tidied_s = clock() + LISTENS_S
        self._lends = self._replaces = False
        self._buckets: dict[str, _Bucket] = {}
        self._heard: dict[str, tuple[float, int]] = {}
        """When each gateway reported last, and which report that was."""

    def exchange(self, report: LeaseReport) -> LeaseAnswer:
        """Settles a gateway's portions, and lends it more."""
        now_s = self._clock()
        self._open_or_listen(report, now_s)
        last = self._heard.get(report.gateway, (0.0, 0))[1]
        grants = {}
        if report.number > last:  # otherwise a later one overtook it, and its answer is not waited for
            self._heard[report.gateway] = now_s, report.number
            self._tidy(now_s)
            lost = report.answered != last
            grants = {
                quota: self._grant(quota, report.gateway, each, now_s, lost) for quota, each in report.portions.items()
            }
        return LeaseAnswer(self._name, grants, max(0.0, self._opens_s - now_s))

    @property
    def quotas(self) -> int:
        """The number of quotas that it keeps an account of."""
        return len(self._buckets)

    def _open_or_listen(self, report: LeaseReport, now_s: float) -> None:
        if self._lends:
            return
        if report.ledger not in (None, self._name) and not self._replaces:
            self._replaces = True
            if now_s >= self._opens_s:  # it was found late: others may still look for it
                self._listen_until(now_s + LISTENS_S)
        if now_s >= self._opens_s:
            self._lends = True
            for bucket in () if self._replaces else self._buckets.values():
                bucket.level = min(bucket.level + bucket.per_minute, bucket.full)

    def _listen_until(self, opens_s: float) -> None:
        self._opens_s = self._tidied_s = opens_s
        for bucket in self._buckets.values():
            bucket.at_s = opens_s

    def _grant(self, quota: str, gateway: str, report: PortionReport, now_s: float, lost: bool) -> Grant:
        bucket = self._bucket(quota, report.per_minute)
        if self._lends:
            bucket.refill(now_s)
        bucket.change(report.per_minute)
        debt = bucket.settle(gateway, report, refilled=self._lends, lost=lost)
        lent = bucket.lend(gateway, report) if self._lends else 0.0
        return Grant(debt + lent, bucket.level)

    def _bucket(self, quota: str, per_minute: float) -> _Bucket:
        """The bucket of a quota. One that is not known was not used since this ledger began to lend."""
        if quota not in self._buckets:
            level = per_minute if self._lends and not self._replaces else 0.0
            self._buckets[quota] = _Bucket(per_minute, level, self._opens_s)
        return self._buckets[quota]

    def _tidy(self, now_s: float) -> None:
        """Forgets gateways that are gone, and quotas that are full and not lent."""
        if now_s - self._tidied_s < MINUTE_S:  # the first minute included: what is not known may not be full
            return
        self._tidied_s = now_s
        for gateway in [gateway for gateway, (at_s, _) in self._heard.items() if now_s - at_s > MINUTE_S]:
            del self._heard[gateway]
            for bucket in self._buckets.values():
                bucket.held.pop(gateway, None)
                bucket.charged.pop(gateway, None)
        for quota in [quota for quota, bucket in self._buckets.items() if _is_new(bucket, now_s)]:
            del self._buckets[quota]


def _is_new(bucket: _Bucket, now_s: float) -> bool:
    """Whether a bucket is as good as one that was never used."""
    bucket.refill(now_s)
    return not any(bucket.held.values()) and bucket.level >= bucket.per_minute - ROUNDING


class LedgerReplica:
    """The deployment of the ledger, of which there is one replica. Its event loop makes one exchange after another."""

    def __init__(self) -> None:
        ignore_unwritten_lines()
        self._ledger = QuotaLedger()

    async def exchange(self, report: LeaseReport) -> LeaseAnswer:
        """See `QuotaLedger.exchange`."""
        return self._ledger.exchange(report)
