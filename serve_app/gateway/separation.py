"""The separation graph: cut (audio helper) -> separate (CUDA | MLX | CPU) -> overlap-merge (audio helper or merger).

Only the merged samples come to the gateway by value, on their way to the client.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from typing import Any

from ray.serve.handle import DeploymentHandle

from cluster.ray_private import by_reference
from deployments.errors import Failure, MotetError
from deployments.replica.chunker import Cut
from deployments.settings import SeparationSettings
from deployments.tasks.engine_calls import in_order_ahead
from deployments.tasks.separation import Merged, SeparationTask, separate
from serve_app.gateway.recording import ATTEMPTS, WORTH_A_RETRY, ItemInFlight, Recordings, RecordingSession
from serve_app.gateway.request_context import current_request
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.routing.directory import ModelDirectory, value_of
from serve_app.gateway.routing.placement import NoAnswer


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
    ) -> AsyncGenerator[Merged]:
        """The separated recording, in order. Raises `MotetError`.

        `ticket` is the recording's place in the queue: it learns which placement answers and how far the recording is, and is
        closed at the end. For `needed` see `RecordingSession.kept`.
        """
        limit_s = self._settings.max_audio_s
        async with self._recordings.session(upload, task, limit_s, directory, ticket, model) as session:
            joins = _Joins(session, self._merger)

            def made(merged: Merged) -> None:
                ticket.placement = session.answered_by
                ticket.record_made(merged.seconds)
                current_request().note_first_result()

            calls = in_order_ahead(
                session.take,
                lambda cut, _: session.send(cut.ticket, "separate"),
                lambda: self._recordings.width(self._settings.chunks_in_flight),
            )
            async with aclosing(session.kept(separate(calls, joins.join), made, needed)) as parts:
                async for merged in parts:
                    yield merged


class _Joins:
    """Joins the chunks of one recording."""

    def __init__(self, session: RecordingSession, merger: DeploymentHandle[Any]) -> None:
        self._session = session
        self._merger = merger

    async def join(self, previous: ItemInFlight | None, _: Cut, item: ItemInFlight) -> Merged:
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
            merged: Merged | Failure = await item.placement.while_alive(joined, last=patient)
        except NoAnswer:
            item.placement.suspect()
            raise
        return merged
