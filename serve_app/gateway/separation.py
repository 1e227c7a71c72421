"""The coordinator of the separation graph: chunk (CPU) -> separate (CUDA | MLX | CPU) -> overlap-merge (CPU).

Chunks go by object reference: the coordinator hands the answer of one deployment to the next and never holds a chunk's
samples. Only the merged samples come to it by value, on their way to the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from typing import Any

from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from cluster.ray_private import by_reference
from deployments.errors import Failure, MotetError, fail, in_one_line
from deployments.settings import SeparationSettings
from deployments.tasks.separation import ChunkTicket, Merged, SeparationTask, separate
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.routing.directory import ModelDirectory, refusal_of, value_of
from serve_app.gateway.routing.placement import LOST, NoAnswer, PlacedModel

ATTEMPTS = 2
"""A chunk that fails is separated once more, on another placement if there is one."""
KEEPS = 3
"""Signs of life within `session_idle_s` while the graph waits for a model."""

WORTH_A_RETRY = ("engine", "unavailable", "overloaded")
"""Failures of a replica that another replica may not have."""


@dataclass(slots=True, eq=False)
class ChunkInFlight:
    """A chunk that a placement separates. `chunk` and `stems` are passed on by reference; only after a failure are they
    fetched."""

    ticket: ChunkTicket
    chunk: Any
    placement: PlacedModel
    stems: Any
    counted: ExitStack
    sent_at_s: float
    place_in_line: int

    def leave(self) -> None:
        """The placement no longer counts it. Safe to call twice."""
        self.counted.close()

    def cancel(self) -> None:
        """Gives it up."""
        self.stems.cancel()
        self.leave()

    def send(self, placement: PlacedModel) -> None:
        """Sends the chunk to a placement."""
        self.placement, self.sent_at_s, self.place_in_line = placement, time.monotonic(), placement.under_way + 1
        self.counted.enter_context(placement.request())
        self.stems = by_reference(placement.handle).separate.remote(self.chunk)


class SeparationGraph:
    """The handles of the deployments that separate recordings together."""

    def __init__(
        self, chunkers: Sequence[DeploymentHandle[Any]], merger: DeploymentHandle[Any], settings: SeparationSettings
    ) -> None:
        self._chunkers = itertools.cycle(chunkers)
        self._merger = by_reference(merger)
        self._settings = settings

    async def run(
        self, upload: AsyncIterable[bytes], task: SeparationTask, directory: ModelDirectory, ticket: Ticket, model: str
    ) -> AsyncGenerator[Merged]:
        """The separated recording, in order. Raises `MotetError`.

        `ticket` is the recording's place in the queue: it learns which placement answers and how far the recording is, and is
        closed at the end.
        """
        keep_every_s = self._settings.session_idle_s / KEEPS
        recording = _Recording(next(self._chunkers), self._merger, directory, model, keep_every_s)
        feeding: asyncio.Task[None] | None = None
        try:
            await recording.open(task, ticket)
            feeding = asyncio.create_task(recording.feed(upload))
            parts = separate(recording.take, recording.send, recording.join, self._settings.chunks_in_flight)
            async with aclosing(parts):
                async for merged in parts:
                    ticket.placement = recording.answered_by
                    ticket.record_made(merged.seconds)
                    yield merged
            await feeding
            ticket.complete()
        except MotetError:
            if feeding is not None and feeding.done():
                await feeding  # an error of the upload is the cause of the other
            raise
        except LOST as error:
            raise refusal_of(model, error) or _interrupted(error) from error
        finally:
            if feeding is not None:
                feeding.cancel()
            recording.close()
            ticket.close()


class _Recording:
    """One recording on its way through the graph."""

    def __init__(
        self,
        chunker: DeploymentHandle[Any],
        merger: DeploymentHandle[Any],
        directory: ModelDirectory,
        model: str,
        keep_every_s: float,
    ) -> None:
        self._keep_every_s = keep_every_s
        self._name = uuid.uuid4().hex
        self._chunker = chunker
        self._merger = merger
        self._directory = directory
        self._model = model
        self._ended = False
        self._measured: set[str] = set()
        self.answered_by = ""
        """The placement that separated the latest chunk."""

    async def open(self, task: SeparationTask, ticket: Ticket) -> None:
        refusal: Failure | None = await self._chunker.open.remote(self._name, task)
        if refusal is not None and refusal.kind == "overloaded":
            refusal = replace(refusal, retry_after_s=ticket.give_up())
        value_of(refusal)

    async def feed(self, upload: AsyncIterable[bytes]) -> None:
        try:
            async for block in upload:
                value_of(await self._chunker.feed.remote(self._name, block, False))
            value_of(await self._chunker.feed.remote(self._name, b"", True))
        except Exception:
            await self._chunker.close.remote(self._name)  # wakes a decoder that waits for more
            raise

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._chunker.close.remote(self._name)

    async def take(self) -> ChunkTicket | None:
        if self._ended:
            return None
        ticket: ChunkTicket | None = value_of(await self._chunker.next.remote(self._name))
        self._ended = ticket is None or ticket.last
        await self._directory.refresh(self._model)
        return ticket

    def send(self, ticket: ChunkTicket) -> ChunkInFlight:
        chunk = by_reference(self._chunker).fetch.remote(self._name, ticket.index)
        placement = self._directory.choose(self._model)
        item = ChunkInFlight(ticket, chunk, placement, None, ExitStack(), 0.0, 0)
        item.send(placement)
        return item

    async def join(self, previous: ChunkInFlight | None, _: ChunkTicket, item: ChunkInFlight) -> Merged:
        """The samples that a chunk completes. The session is kept meanwhile, because a busy model may take longer than an
        idle session lasts. A client that does not read is not kept."""
        keeping = asyncio.create_task(self._keep_session())
        try:
            return await self._joined(previous, item)
        finally:
            keeping.cancel()

    async def _keep_session(self) -> None:
        while True:
            await asyncio.sleep(self._keep_every_s)
            with contextlib.suppress(*LOST):  # a chunker that is gone shows at the next chunk
                await self._chunker.keep.remote(self._name)

    async def _joined(self, previous: ChunkInFlight | None, item: ChunkInFlight) -> Merged:
        """The samples that a chunk completes. If its separation failed, it is sent once more, to another placement if there
        is one; if only the merger failed, the same stems are joined again."""
        for attempt in range(ATTEMPTS):
            last = attempt + 1 == ATTEMPTS
            try:
                merged = await self._try_join(previous, item, patient=last)
            except Exception as error:
                if last and isinstance(error, MotetError):
                    raise  # the replicas are frozen: whether the stems exist would not be known soon
                again = isinstance(error, NoAnswer) or await self._lost(item)
                if last:
                    raise
                if previous is not None and await self._lost(previous):
                    self._send_again(previous)
                    previous.leave()
            else:
                again = True
                if isinstance(merged, Merged):
                    self._note_answer(item)
                    return merged
                if last or merged.kind not in WORTH_A_RETRY:
                    value_of(merged)
            if again:
                self._send_again(item)
        raise AssertionError("the last attempt answers or raises")

    async def _try_join(
        self, previous: ChunkInFlight | None, item: ChunkInFlight, *, patient: bool
    ) -> Merged | Failure:
        stems = None if previous is None else previous.stems
        joined = self._merger.join.remote(stems, item.stems, item.ticket.plan, item.ticket.last)
        try:
            merged: Merged | Failure = await item.placement.while_alive(joined, last=patient)
        except NoAnswer:
            item.placement.suspect()
            raise
        return merged

    async def _lost(self, item: ChunkInFlight) -> bool:
        """Whether the separation of a chunk failed, or its stems went with the machine that held them. Fetches the stems,
        since Ray has no other way to see it. Raises what the chunker raised: without the chunk there is no other attempt."""
        try:
            await item.placement.while_alive(item.stems)
        except BackPressureError:
            return True
        except Exception as error:
            if not isinstance(error, NoAnswer):  # a silent placement may still wait for the chunk
                await item.chunk
            item.placement.suspect()
            return True
        return False

    def _send_again(self, item: ChunkInFlight) -> None:
        item.cancel()
        item.send(self._directory.choose(self._model, besides=item.placement))

    def _note_answer(self, item: ChunkInFlight) -> None:
        item.leave()
        self.answered_by = item.placement.name
        # Only the first chunk on each placement: later ones may have been ready while the client did not read.
        if self.answered_by not in self._measured:
            self._measured.add(self.answered_by)
            item.placement.note_answer(item.sent_at_s, item.place_in_line)


def _interrupted(error: Exception) -> MotetError:
    return fail(
        "unavailable",
        "A part of the service went away while the recording was being separated.",
        "Send the file again in a moment.",
        code="separation_interrupted",
        detail=in_one_line(error),
    )
