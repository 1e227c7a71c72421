"""What is found in recordings while an audio helper cuts them, without a model: speech, speakers, and voices."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any

from deployments.replica.chunker import CuttingTask
from deployments.settings import WindowSettings
from serve_app.gateway.recording import Recordings
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.routing.directory import ModelDirectory


class RecordingAnalysis:
    """Runs tasks that need no engine."""

    def __init__(self, recordings: Recordings, settings: WindowSettings) -> None:
        self._recordings = recordings
        self._settings = settings

    async def run(
        self, upload: AsyncIterable[bytes], task: CuttingTask, directory: ModelDirectory, ticket: Ticket
    ) -> AsyncGenerator[Any]:
        """The tickets of the task, in order. Raises `MotetError`.

        `ticket` is the recording's place in the queue: it learns how far the recording is, and is closed at the end.
        """
        done_s = 0.0
        name = ticket.placement
        async with self._recordings.session(upload, task, self._settings, directory, ticket, name) as session:
            while (cut := await session.take()) is not None:
                ticket.record_made(cut.ticket.until_s - done_s)
                done_s = cut.ticket.until_s
                yield cut.ticket
