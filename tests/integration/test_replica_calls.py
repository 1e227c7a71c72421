"""Calls to one replica of several, in a real cluster."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray import serve
from ray.serve.exceptions import ReplicaUnavailableError

from cluster.ray_private import answer_of_replica


class Ear:
    """Says who it is."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()

    async def who(self, *words: str) -> tuple[str, int, tuple[str, ...]]:
        return serve.get_replica_context().replica_id.unique_id, os.getpid(), words

    async def wait(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def until_cancelled(self) -> None:
        await self.cancelled.wait()


@pytest.fixture(scope="module")
def handle() -> Iterator[Any]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": 0}, proxy_location="Disabled")
    ears: Any = serve.deployment(num_replicas=3, max_ongoing_requests=8, ray_actor_options={"num_cpus": 0})(Ear)
    yield serve.run(ears.bind(), name="ears", route_prefix=None)
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


def test_each_replica_is_reached_by_its_id(handle: Any) -> None:
    async def asked() -> None:
        replicas = {id: process for id, process, _ in await handle.broadcast("who").results_async()}
        assert len(replicas) == 3
        everyone = [*replicas] * 5
        answers = await asyncio.gather(*(answer_of_replica(handle, each, "who", "a", "b") for each in everyone))
        assert answers == [(each, replicas[each], ("a", "b")) for each in everyone]

    asyncio.run(asked())


def test_a_replica_that_does_not_run_is_refused(handle: Any) -> None:
    with pytest.raises(ReplicaUnavailableError):
        asyncio.run(answer_of_replica(handle, "gone", "who"))


def test_a_call_that_nobody_waits_for_is_cancelled(handle: Any) -> None:
    async def asked() -> None:
        id, _, _ = await handle.who.remote()
        call = asyncio.create_task(answer_of_replica(handle, id, "wait"))
        await asyncio.sleep(0.3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with asyncio.timeout(10):
            await answer_of_replica(handle, id, "until_cancelled")

    asyncio.run(asked())
