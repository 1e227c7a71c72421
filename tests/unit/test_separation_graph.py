"""A separation whose chunker, merger or separator goes away ends with an error that says so."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from ray.exceptions import RayActorError

from deployments.engines.protocols import Chunk
from deployments.errors import MotetError
from deployments.replica.pipeline import Chunker, ChunkTicket, SeparationGraph, SeparationTask
from deployments.settings import SeparationSettings
from tests.unit.fakes import FakeHandle
from tests.unit.test_decode import make


class LostChunker:
    """One whose replica ended."""

    async def open(self, name: str, task: SeparationTask) -> None:
        raise RayActorError()

    def close(self, name: str) -> None:
        pass


async def upload() -> AsyncIterator[bytes]:
    yield b"RIFF"


async def test_a_chunker_that_is_gone_is_an_error_that_clients_understand() -> None:
    handles = cast("Any", [FakeHandle(LostChunker())])
    graph = SeparationGraph(handles, cast("Any", FakeHandle(None)), SeparationSettings())
    with pytest.raises(MotetError) as caught:
        _ = [
            merged
            async for merged in graph.run(upload(), SeparationTask((16_000,), 10.0, 3.0), lambda: cast("Any", None))
        ]
    failure = caught.value.failure
    assert (failure.kind, failure.code) == ("unavailable", "separation_interrupted")
    assert "actor" not in failure.message.lower() and "ActorError" in (failure.detail or "")


async def test_the_sound_of_a_session_goes_with_it() -> None:
    """Not only when Python's collector looks for cycles."""
    chunker = Chunker(SeparationSettings())
    recording = make("wav16", seconds=3)
    gc.disable()
    try:
        assert await chunker.open("a", SeparationTask((16_000,), 1.0, 0.2)) is None
        await chunker.feed("a", recording, True)
        ticket = await chunker.next("a")
        assert isinstance(ticket, ChunkTicket)
        chunk = await chunker.fetch("a", ticket.index)
        assert isinstance(chunk, Chunk)
        session = weakref.ref(chunker._sessions["a"].pipe)
        await chunker.close("a")
        assert session() is None
    finally:
        gc.enable()
