"""The transcription graph: cut (audio helper) -> transcribe (CUDA | MLX | CPU), any number of windows at once, in order.

Only transcripts come to the gateway by value.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from contextlib import aclosing

from deployments.engines.protocols import RecognitionTraits, Transcript
from deployments.replica.chunker import Cut
from deployments.settings import WindowSettings
from deployments.tasks.engine_calls import Call, DoneCall, forget, in_order_ahead
from deployments.tasks.transcription import TranscriptionTask, TranscriptWindow, transcribe
from serve_app.gateway import kept_transcripts
from serve_app.gateway.jobs.context import JOB, KeepsParts, address_of, part_lost
from serve_app.gateway.recording import Recordings, RecordingSession
from serve_app.gateway.request_context import current_request
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.routing.directory import ModelDirectory

STEPS_AHEAD = 2
"""Steps of each replica for which windows of one recording are under way, where the settings do not say: one runs while the
windows of the next one gather. More would be given to replicas before it is known which of them is free: with four steps, two
replicas made 1.3 to 1.67 times the speed of one, with two 1.5 to 1.7 times."""


class TranscriptionGraph:
    """The handles of the deployments that transcribe recordings together."""

    def __init__(self, recordings: Recordings, settings: WindowSettings) -> None:
        self._recordings = recordings
        self._settings = settings

    async def run(
        self,
        upload: AsyncIterable[bytes],
        task: TranscriptionTask,
        directory: ModelDirectory,
        ticket: Ticket,
        model: str,
    ) -> AsyncGenerator[TranscriptWindow]:
        """The transcript, window by window in order. Raises `MotetError`.

        `ticket` is the recording's place in the queue: it learns which placement answers and how far the recording is, and is
        closed at the end.
        """
        async with self._recordings.session(upload, task, self._settings, directory, ticket, model) as session:
            most = await self._most_in_flight(directory, model)
            decisive = (task, self._settings, model, directory.models[model].weights)
            kept = _KeptWindows(session, job.parts, decisive) if (job := JOB.get()) else None

            def start(cut: Cut, answered: Callable[[], None]) -> Call[Transcript | None]:
                if not cut.for_engine:
                    answered()
                    return DoneCall(None)
                call = _started(session, cut) if kept is None else kept.started(cut)
                call.add_done_callback(lambda _: answered())
                return call

            done_s = 0.0

            def made(window: TranscriptWindow) -> None:
                nonlocal done_s
                ticket.placement = session.answered_by or ticket.placement
                ticket.record_made(window.until_seconds - done_s)
                done_s = window.until_seconds
                if window.text:
                    current_request().note_first_result()

            calls = in_order_ahead(session.take, start, lambda: self._recordings.width(most))
            async with aclosing(session.kept(transcribe(calls, _awaited), made)) as windows:
                async for window in windows:
                    yield window

    async def _most_in_flight(self, directory: ModelDirectory, model: str) -> int:
        """The most windows of one recording that are under way: see `WindowSettings.windows_in_flight`."""
        if self._settings.windows_in_flight is not None:
            return self._settings.windows_in_flight
        traits: RecognitionTraits = await directory.traits(model)
        entry = directory.models[model]
        return STEPS_AHEAD * entry.replicas * min(entry.max_batch_size, traits.batch_windows)


def _started(session: RecordingSession, cut: Cut) -> asyncio.Task[Transcript | None]:
    """A window on its way. It is watched from the start: if a replica ends, its windows are sent again at the same time."""
    item = session.send(cut.ticket, "transcribe")
    call = asyncio.create_task(session.answer(item))
    call.add_done_callback(lambda done: item.cancel() if done.cancelled() else item.leave())
    call.add_done_callback(forget)
    return call


class _KeptWindows:
    """The windows of a job. Those that were transcribed before are taken from its finished parts."""

    def __init__(self, session: RecordingSession, parts: KeepsParts, decisive: Sequence[object]) -> None:
        self._session = session
        self._parts = parts
        self._decisive = decisive

    def started(self, cut: Cut) -> asyncio.Task[Transcript | None]:
        """A window on its way, or from the store."""
        address = address_of("window", cut.ticket.index, *self._decisive)
        if self._parts.has(address):
            self._session.skip(cut.ticket)
            call = asyncio.create_task(self._stored(address))
        else:
            window = _started(self._session, cut)
            call = asyncio.create_task(self._kept(address, window))
            call.add_done_callback(lambda _: window.cancel())
        call.add_done_callback(forget)
        return call

    async def _stored(self, address: str) -> Transcript | None:
        data = await self._parts.get(address)
        if data is None:
            raise part_lost()
        return kept_transcripts.from_json(data)

    async def _kept(self, address: str, call: asyncio.Task[Transcript | None]) -> Transcript | None:
        transcript = await call
        if transcript is not None:
            await self._parts.keep(address, kept_transcripts.to_json(transcript))
        return transcript


async def _awaited(call: Call[Transcript | None]) -> Transcript | None:
    return await call
