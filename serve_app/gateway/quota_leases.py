"""The exchange of a gateway's portions of quotas with the ledger: in the background, and for requests that need more.

Requests wait for the ledger only if their key's portion is empty and the ledger may have more; chunks never do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context

from deployments.replica.quota_ledger import LeaseAnswer, LeaseReport
from serve_app.gateway.audit import audit
from serve_app.gateway.key_quotas import Quota
from serve_app.gateway.quota_portions import Portion, PortionBook

Exchange = Callable[[LeaseReport], Awaitable[LeaseAnswer]]
EVERY_S = 0.5
"""How often quotas in use are exchanged."""
ANSWERS_WITHIN_S = 0.5
"""Afterwards, the ledger counts as away."""


class QuotaLeases:
    """A gateway's portions of quotas. It belongs to one event loop, and does not call the ledger while no quota is in use."""

    def __init__(
        self, exchange: Exchange, gateway: str, gateways: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.book = PortionBook(gateway, gateways, clock)
        self.book.on_begin = self._start
        self._exchange = exchange
        self._renewing: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None

    def quota(self, name: str, per_minute: float | None, *, whole: bool) -> Quota:
        """See `SharedQuotas`."""
        return self.book.portion(name, per_minute, whole=whole)

    async def fetch(self, needs: Sequence[tuple[Quota, float]]) -> None:
        """See `SharedQuotas`."""
        needed = [(portion, amount) for portion, amount in needs if isinstance(portion, Portion)]
        short = [(portion, amount) for portion, amount in needed if portion.is_short(amount)]
        for portion, _ in needed:
            portion.use()
        if not short:
            return
        for portion, amount in short:
            portion.awaited += amount
        try:
            for _ in range(2):  # the one that runs may have begun before this request came
                await asyncio.shield(self._exchanged())
                if not any(portion.is_short(amount) for portion, amount in short):
                    return
        finally:
            for portion, amount in short:
                portion.awaited -= amount

    def _exchanged(self) -> asyncio.Task[None]:
        """The running exchange; starts one if none is running. It runs outside the context of the request: otherwise Ray
        Serve would cancel it when that client disconnects, and the answer would be lost."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._exchange_once(), context=Context())
        return self._running

    async def _exchange_once(self) -> None:
        alone = self.book.is_alone
        try:
            self.book.settle(await asyncio.wait_for(self._exchange(self.book.report()), ANSWERS_WITHIN_S))
        except Exception as error:
            self.book.lose_ledger()
            if not alone:
                audit("quota_ledger_lost", cause=f"{type(error).__name__}: {error}")
        else:
            if alone:
                audit("quota_ledger_found")

    def _start(self) -> None:
        """Exchanges from now on until no quota is in use."""
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew(), context=Context())

    async def _renew(self) -> None:
        while self.book.in_use:
            await asyncio.sleep(EVERY_S)
            await self._exchanged()
