"""A stream of calls to one replica, which has the stream's state. When the replica is lost, the stream begins again at
another one."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from deployments.errors import MotetError
from serve_app.gateway.routing.directory import ModelDirectory, unavailable, value_of
from serve_app.gateway.routing.placement import LOST, PlacedModel

Result = TypeVar("Result")

MOST_LOST = 3
"""Replicas that one attempt may lose: sound that ends its replica must not end all."""


class PinnedStream:
    """One stream of a model. Each call of `method` has the stream's id as its first argument, and its answer names the
    replica. `begins` is called before the first call at a replica: it rewinds to what that replica does not have."""

    def __init__(self, directory: ModelDirectory, model: str, method: str, begins: Callable[[], None]) -> None:
        self._directory = directory
        self._model = model
        self._method = method
        self._begins = begins
        self._placed: PlacedModel | None = None
        self._replica: str | None = None
        self._id = ""
        self._begun = False
        """Whether a replica has answered, so that the stream waits for a restart."""

    @property
    def is_open(self) -> bool:
        """Whether a replica has the stream."""
        return self._replica is not None

    async def attempt(self, once: Callable[[], Awaitable[Result]]) -> Result:
        """The result of `once`, which calls `ask`. It is repeated when the replica is lost or does not have the stream.
        Raises `MotetError`."""
        lost: Exception | None = None
        for _ in range(MOST_LOST):
            try:
                if self._placed is None:
                    await self._begin()
                return await once()
            except LOST as error:
                await self._begin(besides=self._placed)
                lost = error
            except MotetError as error:
                if error.failure.code != "stream_lost":
                    raise
                await self._begin()
                lost = error
        raise unavailable(self._model, lost)

    async def ask(self, *arguments: Any) -> Any:
        """One answer of the replica that has the stream; the first call chooses it. Raises `MotetError`, and what Ray raises
        if the replica is lost."""
        assert self._placed is not None, "within an attempt"
        call = (self._method, self._id, *arguments)
        if self._replica is not None:
            answer = value_of(await self._placed.call_replica(self._replica, *call))
        else:
            last = len(self._directory.placements(self._model)) == 1
            answer = value_of(await self._placed.call(*call, last=last, begun=self._begun))
        self._replica, self._begun = answer.replica, True
        return answer

    def ended(self) -> None:
        """The replica has closed the stream by itself."""
        self._placed = self._replica = None

    async def close(self) -> None:
        """Frees the stream at its replica, if there is one. Safe to call twice."""
        placed, self._placed = self._placed, None
        if placed is not None and self._replica is not None:
            with suppress(*LOST):
                await placed.call_replica(self._replica, "close_stream", self._id)

    async def _begin(self, besides: PlacedModel | None = None) -> None:
        await self._directory.refresh(self._model)
        self._placed, self._id = self._directory.choose(self._model, besides), uuid.uuid4().hex
        self._replica = None
        self._begins()
