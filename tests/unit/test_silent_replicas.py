"""A request leaves a replica that does not answer if another replica of its placement does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from cluster import ray_private
from cluster.replica_preference import PREFERENCE
from deployments.settings import HealthSettings, SpilloverSettings
from serve_app.gateway.routing.placement import PlacedModel, SilentReplica
from serve_app.gateway.routing.silent_replicas import SilentReplicas
from tests.unit.fakes import FakeHandle

QUICK = SpilloverSettings(silent_s=0.01, life_sign_s=0.02, last_life_sign_s=0.01, ask_again_s=0.01)


class Frozen:
    """A router's target: the first request goes to a frozen replica, later ones to one that answers."""

    def __init__(self) -> None:
        self.asked = 0

    async def ask(self) -> str:
        self.asked += 1
        if self.asked == 1:
            await asyncio.Event().wait()
        return "answer"

    async def stream(self) -> AsyncIterator[str]:
        yield await self.ask()
        yield "more"


@pytest.fixture
def thawed(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Two replicas: "frozen" answers its health check once this is set, and "well" at once."""
    event = asyncio.Event()
    replies(monkeypatch, {"frozen": event, "well": None})
    return event


def replies(monkeypatch: pytest.MonkeyPatch, replicas: Mapping[str, asyncio.Event | None]) -> None:
    async def answer_of_replica(handle: Any, replica_id: str, method: str) -> str:
        if event := replicas[replica_id]:
            await event.wait()
        return replica_id

    monkeypatch.setattr(ray_private, "replica_ids", lambda handle: list(replicas))
    monkeypatch.setattr(ray_private, "answer_of_replica", answer_of_replica)
    monkeypatch.setattr(PREFERENCE, "_silent", set())


def placement(target: Any) -> tuple[PlacedModel, FakeHandle]:
    handle: Any = FakeHandle(target)
    silent = SilentReplicas(handle, QUICK.life_sign_s)
    return PlacedModel("m", "cpu", handle, QUICK, HealthSettings(), silent=silent.found), handle


async def test_a_call_and_a_stream_are_sent_once_more(thawed: asyncio.Event) -> None:
    called, handle = placement(Frozen())
    assert await asyncio.wait_for(called.call("ask", last=True), 5) == "answer"
    assert handle.single_answers[0].cancelled
    streamed, handle = placement(Frozen())
    assert [item async for item in streamed.stream("stream", last=True)] == ["answer", "more"]
    assert handle.answers[0].cancelled and not handle.answers[1].cancelled
    assert called.alive and streamed.alive  # requests go on to the placement
    thawed.set()


async def test_the_silent_replica_is_avoided_until_it_answers(thawed: asyncio.Event) -> None:
    called, _ = placement(Frozen())
    await asyncio.wait_for(called.call("ask", last=True), 5)
    assert PREFERENCE._silent == {"frozen"}
    thawed.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not PREFERENCE._silent


async def test_a_request_of_which_a_part_was_answered_is_not_sent_again(thawed: asyncio.Event) -> None:
    """An answer that is awaited without `again`, as the second one of a recording is."""
    placed, _ = placement(Frozen())
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(placed.while_alive(answer))
    with pytest.raises(SilentReplica):
        await asyncio.wait_for(placed.while_alive(asyncio.Event().wait(), again=True), 5)
    answer.set_result("late")
    assert await waiting == "late"
    thawed.set()


async def test_a_single_replica_and_replicas_that_are_all_silent_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    never = asyncio.Event()
    for replicas in ({"frozen": never}, {"frozen": never, "frozen, too": never}):
        replies(monkeypatch, replicas)
        handle: Any = FakeHandle(Frozen())
        assert not await SilentReplicas(handle, QUICK.life_sign_s).found()
        assert not PREFERENCE._silent
