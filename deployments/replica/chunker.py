"""The deployment that cuts recordings for separation. It holds no model.

Ray Serve streams have no flow control, so the coordinator asks for one chunk at a time. A recording's session lives in one
chunker; each chunker is a deployment of its own with one replica, which pins a session to it. (Ray 2.60's consistent-hash
router would be the usual way, but of two requests that arrive together it leaves one waiting without an end.) A session that
is not asked for anything for `session_idle_s` is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from deployments.audio.byte_pipe import BytePipe
from deployments.engines.protocols import Chunk
from deployments.errors import Failure
from deployments.replica.error_log import logged_failure
from deployments.replica.malloc_trim import return_freed_memory
from deployments.settings import SeparationSettings
from deployments.tasks.separation import ChunkTicket, SeparationTask, cut_recording

READ_AHEAD_BLOCKS = 4
"""Blocks of an upload that a session holds before the upload waits."""


class Timers(Protocol):
    """A clock and its timers, as an event loop has them. Seconds."""

    def time(self) -> float:
        """The time of the clock."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        """Calls `callback` after `delay`, unless the handle is cancelled before."""


class ChunkingSession:
    """One recording on its way through a chunker."""

    def __init__(self, task: SeparationTask, settings: SeparationSettings, used_at_s: float) -> None:
        pipe = BytePipe(settings.block_bytes * READ_AHEAD_BLOCKS, settings.session_idle_s)
        self._pipe: BytePipe | None = pipe
        self._chunks: Iterator[tuple[ChunkTicket, Chunk]] = cut_recording(pipe, task, settings.max_audio_s)
        self._ready: dict[int, Chunk] = {}
        self.used_at_s = used_at_s
        self.cutting = False
        """Whether a decoder thread is in `cut`."""
        self.timer: asyncio.TimerHandle | None = None

    async def feed(self, block: bytes, *, last: bool) -> None:
        """Takes the next bytes of the recording, once there is room for them."""
        if pipe := self._pipe:
            await pipe.write(block)
            if last:
                pipe.end()

    def cut(self) -> ChunkTicket | None:
        """Decodes up to the next chunk, which `fetch` gives then; None after the last. Runs on a decoder thread."""
        found = next(self._chunks, None)
        if found is None:
            return None
        ticket, chunk = found
        self._ready[ticket.index] = chunk
        return ticket

    def fetch(self, index: int) -> Chunk | None:
        """The chunk of a ticket, once."""
        return self._ready.pop(index, None)

    def close(self) -> None:
        """Frees the recording's samples.

        A thread pool drops its reference to a session some time after the call has returned, so the session itself drops
        what it holds. A decoder that is running ends with an error, and drops the rest.
        """
        if self.timer:
            self.timer.cancel()
        if self._pipe:
            self._pipe.abort()
        self._pipe, self._chunks = None, iter(())
        self._ready.clear()


class Chunker:
    """Cuts recordings into chunks, on request."""

    def __init__(self, settings: SeparationSettings, timers: Timers | None = None) -> None:
        """`timers` replaces the event loop in tests."""
        return_freed_memory()  # before the decoders' threads begin
        self._own_timers = timers
        self._settings = settings
        self._sessions: dict[str, ChunkingSession] = {}
        self._decoders = ThreadPoolExecutor(settings.max_sessions, thread_name_prefix="chunker")

    async def open(self, name: str, task: SeparationTask) -> Failure | None:
        """Starts a session."""
        if len(self._sessions) >= self._settings.max_sessions:
            cause = f"{len(self._sessions)} recordings are being separated, as many as this service takes."
            return Failure("overloaded", cause, "Try again later.", code="too_many_separations")
        self._sessions[name] = ChunkingSession(task, self._settings, self._timers.time())
        self._close_when_idle(name)
        return None

    async def feed(self, name: str, block: bytes, last: bool) -> Failure | None:
        """Takes the next bytes of the recording, when there is room for them."""
        session = self._session(name)
        if session is None:
            return _lost()
        await session.feed(block, last=last)
        return None

    async def next(self, name: str) -> ChunkTicket | Failure | None:
        """The next chunk's ticket, or None after the last."""
        session = self._session(name)
        if session is None:
            return _lost()
        session.cutting = True
        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, session.cut)
        except Exception as error:
            return logged_failure(error, "The chunker")
        finally:
            session.cutting, session.used_at_s = False, self._timers.time()

    async def fetch(self, name: str, index: int) -> Chunk | Failure:
        """The chunk of a ticket, once."""
        session = self._session(name)
        chunk = session.fetch(index) if session else None
        return chunk if chunk is not None else _lost()

    async def keep(self, name: str) -> None:
        """Counts as use of the session: the coordinator waits for a model, and asks for the next chunk after that."""
        self._session(name)

    async def close(self, name: str) -> None:
        """Ends a session. Safe to call twice."""
        session = self._sessions.pop(name, None)
        if session is not None:
            session.close()

    async def sessions(self) -> int:
        """The number of open sessions."""
        return len(self._sessions)

    def _session(self, name: str) -> ChunkingSession | None:
        session = self._sessions.get(name)
        if session is not None:
            session.used_at_s = self._timers.time()
        return session

    @property
    def _timers(self) -> Timers:
        return self._own_timers or asyncio.get_running_loop()

    def _close_when_idle(self, name: str) -> None:
        """Closes the session if it is idle, and else looks again when it may be."""
        session, idle_s = self._sessions[name], self._settings.session_idle_s
        left_s = idle_s if session.cutting else session.used_at_s + idle_s - self._timers.time()
        if left_s > 0:
            session.timer = self._timers.call_later(left_s, lambda: self._close_when_idle(name))
        else:
            self._sessions.pop(name).close()


def _lost() -> Failure:
    return Failure("unavailable", "The recording's session is gone.", "Send the file again.", code="session_lost")
