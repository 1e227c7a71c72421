"""Finds replicas that do not answer while others of their placement do, so that requests go to those that answer.

Ray Serve ends a replica that is frozen after some seconds (`HealthSettings`). Until then its router would go on to choose it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray.serve.handle import DeploymentHandle

from cluster import ray_private
from cluster.replica_preference import PREFERENCE

SIBLING_SIGN = 0.5
"""The share of `spillover.life_sign_s` after which a replica with siblings counts as silent. A mistake costs little, because
a sibling answers."""
WATCHED_S = 120.0
"""How long a silent replica is avoided if it neither answers nor ends. Ray Serve ends it much earlier."""


class SilentReplicas:
    """Looks for the silent replicas of one placement. One look serves all requests that wait."""

    def __init__(self, handle: DeploymentHandle[Any], life_sign_s: float) -> None:
        self._handle = handle
        self._sign_s = life_sign_s * SIBLING_SIGN
        self._look: asyncio.Task[bool] | None = None

    async def found(self) -> bool:
        """Whether some replicas are silent and others answer. The silent ones get requests last from now on, until they
        answer."""
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._find())
        return await asyncio.shield(self._look)

    async def _find(self) -> bool:
        ids = ray_private.replica_ids(self._handle)
        if len(ids) < 2:
            return False
        signs = {id: asyncio.ensure_future(ray_private.answer_of_replica(self._handle, id, "report")) for id in ids}
        await asyncio.wait(signs.values(), timeout=self._sign_s)
        silent = {id: sign for id, sign in signs.items() if not sign.done()}
        answering = any(sign.done() and not sign.exception() for sign in signs.values())
        for id, sign in silent.items():
            if answering:
                PREFERENCE.note_silence(id)
            self._forget_once_over(id, sign)
        return answering and bool(silent)

    def _forget_once_over(self, id: str, sign: asyncio.Future[Any]) -> None:
        """The replica counts as answering once its health check is over, for whatever reason."""
        giving_up = asyncio.get_running_loop().call_later(WATCHED_S, sign.cancel)

        def over(sign: asyncio.Future[Any]) -> None:
            giving_up.cancel()
            PREFERENCE.note_answer(id)
            if not sign.cancelled():
                sign.exception()  # asyncio logs exceptions that are never retrieved

        sign.add_done_callback(over)
