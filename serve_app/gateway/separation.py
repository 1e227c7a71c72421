"""The separation graph: cut (audio helper) -> separate (CUDA | MLX | CPU) -> overlap-merge (audio helper or merger).

Only the merged samples come to the gateway by value, on their way to the client.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

from ray.serve.handle import DeploymentHandle

from cluster.ray_private import by_reference
from deployments.errors import Failure, MotetError, in_one_line
from deployments.replica.chunker import Cut
from deployments.settings import SeparationSettings
from deployments.tasks.engine_calls import DoneCall, in_order_ahead
from deployments.tasks.separation import ChunkTicket, Gap, Merged, SeparationTask, separate
from deployments.tracing.spans import within
from serve_app.gateway import kept_stems
from serve_app.gateway.jobs.context import JOB, RunningJob, address_of, part_lost
from serve_app.gateway.recording import ATTEMPTS, WORTH_A_RETRY, ItemInFlight, Recordings, RecordingSession
from serve_app.gateway.request_context import current_request
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.routing.directory import ModelDirectory, value_of
from serve_app.gateway.routing.placement import LOST, NoAnswer

_LOG = logging.getLogger(__name__)

MOST_GAPS_IN_A_ROW = 2
"""More chunks that fail one after another are no accident: the recording fails."""


class SeparationGraph:
    """The handles of the deployments that separate recordings together."""

    def __init__(self, recordings: Recordings, merger: DeploymentHandle[Any], settings: SeparationSettings) -> None:
        self._recordings = recordings
        self._merger = by_reference(merger)
        self._settings = settings

    async def run(
        self,
        upload: AsyncIterable[bytes],
        task: SeparationTask,
        directory: ModelDirectory,
        ticket: Ticket,
        model: str,
        needed: Callable[[], bool] = lambda: False,
        silent_gaps: Sequence[str] = (),
    ) -> AsyncGenerator[Merged]:
        """The separated recording, in order. Raises `MotetError`.

        `ticket` is the recording's place in the queue: it learns which placement answers and how far the recording is, and is
        closed at the end. With `silent_gaps`, the names of all stems, a chunk that fails again is a gap instead of the end,
        unless it is the first one or one of several in a row. For `needed` see `RecordingSession.kept`.
        """
        limit_s = self._settings.max_audio_s
        async with self._recordings.session(upload, task, limit_s, directory, ticket, model) as session:
            joins = _Joins(session, self._merger, silent_gaps)
            if job := JOB.get():
                decisive = (task, limit_s, model, directory.models[model].weights)
                joins = _KeptJoins(session, self._merger, silent_gaps, job, decisive)

            def made(merged: Merged) -> None:
                ticket.placement = session.answered_by or ticket.placement
                ticket.record_made(merged.seconds)
                current_request().note_first_result()

            def width() -> int:
                return self._recordings.width(self._settings.chunks_in_flight * directory.living(model))

            calls = in_order_ahead(session.take, joins.start, width)
            async with aclosing(joins), aclosing(session.kept(separate(calls, joins.join), made, needed)) as parts:
                async for merged in parts:
                    yield merged


Sent = ItemInFlight | DoneCall[None]
"""A chunk on its way, or one that no placement is asked for."""


class _Joins:
    """Joins the chunks of one recording."""

    def __init__(self, session: RecordingSession, merger: DeploymentHandle[Any], silent_gaps: Sequence[str]) -> None:
        self._session = session
        self._merger = merger
        self._silent_gaps = silent_gaps
        self._gaps_in_a_row = 0
        self._watches: set[asyncio.Task[None]] = set()

    def start(self, cut: Cut, answered: Callable[[], None]) -> Sent:
        """Sends a chunk. `answered` see `watch`."""
        self.watch(item := self._session.send(cut.ticket, "separate"), answered)
        return item

    async def join(self, previous: Sent | None, cut: Cut, item: Sent) -> Merged:
        """The samples that a chunk completes: a gap if they cannot be had. Raises what went wrong where gaps are not
        allowed."""
        assert isinstance(item, ItemInFlight) and not isinstance(previous, DoneCall), "both were sent"
        try:
            with within("join"):
                merged = await self._separated(previous, item)
        except (MotetError, *LOST) as error:
            self._gaps_in_a_row += 1
            if previous is None or not self._may_be_a_gap(error):
                raise
            _LOG.warning("A chunk of a recording is silent: %s", in_one_line(error))
            return await self._gap(previous, item)
        self._gaps_in_a_row = 0
        return merged

    def watch(self, item: ItemInFlight, answered: Callable[[], None]) -> None:
        """Notes when a chunk's stems are there, which may be long before its neighbours are joined and read: its placement
        takes another one meanwhile. `answered` is called then, or if they cannot be had."""
        watch = asyncio.create_task(self._notice(item))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)
        watch.add_done_callback(lambda _: answered())

    async def aclose(self) -> None:
        """Stops watching."""
        for watch in self._watches:
            watch.cancel()

    async def _notice(self, item: ItemInFlight) -> None:
        sent_at_s = item.sent_at_s
        with suppress(*LOST, asyncio.CancelledError):  # the join sees what failed
            if await self._merger.arrived.remote(item.answer) is None and item.sent_at_s == sent_at_s:
                self._session.note_answer(item)

    def _may_be_a_gap(self, error: Exception) -> bool:
        replica_failed = not isinstance(error, MotetError) or error.failure.kind in WORTH_A_RETRY
        return replica_failed and bool(self._silent_gaps) and self._gaps_in_a_row <= MOST_GAPS_IN_A_ROW

    async def _gap(self, previous: ItemInFlight, item: ItemInFlight) -> Merged:
        """Raises what was wrong with the recording, if that was why the chunk failed."""
        item.cancel()
        item.answer = self._merger.silence.remote(item.payload, self._silent_gaps)
        merged: Merged = value_of(await self._try_join(previous, item, patient=True))
        return replace(merged, gap=_gap_of(item.ticket))

    async def _separated(self, previous: ItemInFlight | None, item: ItemInFlight) -> Merged:
        """The samples that a chunk completes. If its separation failed, it is sent once more, to another placement if there
        is one; if only the merger failed, the same stems are joined again."""
        session = self._session
        for attempt in range(ATTEMPTS):
            last = attempt + 1 == ATTEMPTS
            try:
                merged = await self._try_join(previous, item, patient=last)
            except Exception as error:
                if last and isinstance(error, MotetError):
                    raise  # the replicas are frozen: whether the stems exist would not be known soon
                again = isinstance(error, NoAnswer) or await session.lost(item)
                if last:
                    raise
                if previous is not None and await session.lost(previous):
                    session.send_again(previous)
                    previous.leave()
            else:
                again = True
                if isinstance(merged, Merged):
                    session.note_answer(item)
                    return merged
                if last or merged.kind not in WORTH_A_RETRY:
                    value_of(merged)
            if again:
                session.send_again(item)
        raise AssertionError("the last attempt answers or raises")

    async def _try_join(self, previous: ItemInFlight | None, item: ItemInFlight, *, patient: bool) -> Merged | Failure:
        stems = None if previous is None else previous.answer
        joined = self._merger.join.remote(stems, item.answer, item.ticket.plan, item.ticket.last)
        try:
            placement, begun = item.placement, self._session.begun
            waited = placement.while_alive(joined, last=patient, begun=begun, again=not patient)
            merged: Merged | Failure = await waited
        except NoAnswer:
            item.placement.suspect()
            raise
        return merged


def _gap_of(ticket: ChunkTicket) -> Gap:
    """The sound of a chunk. The last one may end earlier than planned."""
    start = ticket.index * ticket.plan.hop
    return Gap(start / ticket.sample_rate, (start + ticket.plan.chunk_samples) / ticket.sample_rate)


class _KeptJoins(_Joins):
    """Joins the chunks of a job, and keeps what they complete. What was completed before is taken from its finished parts: a
    chunk is separated again only if the next one is joined with it. A chunk is a gap only in an attempt that would
    end the job otherwise."""

    def __init__(
        self,
        session: RecordingSession,
        merger: DeploymentHandle[Any],
        silent_gaps: Sequence[str],
        job: RunningJob,
        decisive: Sequence[object],
    ) -> None:
        super().__init__(session, merger, silent_gaps)
        self._job = job
        self._decisive = decisive
        self._done = 0
        while job.parts.has(self._address(self._done)):
            self._done += 1

    def _may_be_a_gap(self, error: Exception) -> bool:
        return not self._job.again and super()._may_be_a_gap(error)

    def _address(self, index: int) -> str:
        return address_of("joined", index, *self._decisive)

    def start(self, cut: Cut, answered: Callable[[], None]) -> Sent:
        """Sends a chunk, if it is needed."""
        ticket = cut.ticket
        if ticket.index >= self._done or (ticket.index == self._done - 1 and not ticket.last):
            return super().start(cut, answered)
        self._session.skip(ticket)
        answered()
        return DoneCall(None)

    async def join(self, previous: Sent | None, cut: Cut, item: Sent) -> Merged:
        """See `_Joins.join`."""
        address = self._address(cut.ticket.index)
        if cut.ticket.index < self._done:
            if (data := await self._job.parts.get(address)) is None:
                raise part_lost()
            return await asyncio.to_thread(kept_stems.from_npz, data)
        merged = await super().join(previous, cut, item)
        if merged.gap is None:  # the next attempt may have no gap
            await self._job.parts.keep(address, await asyncio.to_thread(kept_stems.to_npz, merged))
        return merged
