"""The deployment that decodes and cuts recordings, for every task, and finds speech in live sessions.

Ray Serve streams have no flow control, so the gateway asks for one window or chunk at a time. A recording's session lives
in one audio helper; each helper is a deployment of its own with one replica, which pins a session to it. (Ray 2.60's
consistent-hash router would be the usual way, but of two requests that arrive together it leaves one waiting without an end.)
A session that is not asked for anything for `session_idle_s` is closed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from deployments.audio.byte_pipe import BytePipe
from deployments.audio.file_source import ByteSource
from deployments.audio.isolated_decode import shared_decoder_processes
from deployments.audio.sound_decoder import AudioInfo, OpenDecoder, SoundDecoder
from deployments.errors import Failure
from deployments.replica.decoded_memory import DecodedMemory, MemoryShare, without_permit
from deployments.replica.error_log import ignore_unwritten_lines, logged_failure
from deployments.replica.live_turns import LiveFrames, LiveTurns
from deployments.replica.malloc_trim import return_freed_memory
from deployments.settings import RecordingSettings

READ_AHEAD_BLOCKS = 4
"""Blocks of an upload that a session holds before the upload waits."""


class Timers(Protocol):
    """A clock and its timers, as an event loop has them. Seconds."""

    def time(self) -> float:
        """The time of the clock."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> asyncio.TimerHandle:
        """Calls `callback` after `delay`, unless the handle is cancelled before."""


class CutTicket(Protocol):
    """What is known of a window or chunk without its samples."""

    @property
    def index(self) -> int:
        """Its place in the recording, from 0."""


class CuttingTask(Protocol):
    """What to do with a recording, as far as it is done while it is cut."""

    def cut(
        self, file: ByteSource, settings: Any, open_decoder: OpenDecoder, /
    ) -> Iterator[tuple[CutTicket, Any | None]]:
        """A ticket for each window or chunk with what an engine gets; None with a ticket that needs no engine."""

    def held_bytes(self, info: AudioInfo, settings: Any, /) -> int:
        """The most bytes of decoded sound that are held while such a recording is cut, with one window or chunk of it."""


class Cut(NamedTuple):
    """The next ticket of a recording, and whether `Chunker.fetch` has something for it."""

    ticket: Any
    for_engine: bool


class ChunkingSession:
    """One recording on its way through an audio helper."""

    def __init__(
        self,
        task: CuttingTask,
        cut_settings: Any,
        settings: RecordingSettings,
        used_at_s: float,
        decoders: threading.Semaphore,
        open_decoder: OpenDecoder,
        share: MemoryShare,
    ) -> None:
        """`decoders` counts the recordings that may be decoded at the same time, and `share` is this one's memory."""
        pipe = BytePipe(settings.block_bytes * READ_AHEAD_BLOCKS, settings.session_idle_s)
        self._pipe: BytePipe | None = pipe
        self._decoders = decoders
        self._share = share
        self._open_decoder = open_decoder
        self._held_bytes: Callable[[AudioInfo], int] = lambda info: task.held_bytes(info, cut_settings)
        self._cuts: Iterator[tuple[CutTicket, Any | None]] = task.cut(
            _PatientPipe(pipe, decoders), cut_settings, self._open_in_turn
        )
        self._ready: dict[int, Any] = {}
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

    def _open_in_turn(self, file: ByteSource | bytes, **arguments: Any) -> SoundDecoder:
        """Opens a decoder, and waits until there is memory for the recording. Clips of known speakers are opened after it,
        and count as its own."""
        decoder = self._open_decoder(file, **arguments)
        if not self._share.taken:
            try:
                with without_permit(self._decoders):
                    self._share.take(self._held_bytes(decoder.info))
            except BaseException:
                decoder.close()
                raise
        return decoder

    def cut(self) -> Cut | None:
        """Decodes up to the next window or chunk, which `fetch` gives then; None after the last. Runs on a decoder
        thread."""
        found = None
        try:
            with self._decoders:
                found = next(self._cuts, None)
        finally:
            if found is None:
                self._share.close()
                if pipe := self._pipe:
                    pipe.abort()  # the rest of the upload is not read; without this its sender would wait for room forever
        if found is None:
            return None
        ticket, payload = found
        if payload is not None:
            self._ready[ticket.index] = payload
        return Cut(ticket, payload is not None)

    def fetch(self, index: int) -> Any | None:
        """The window or chunk of a ticket, once."""
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
        self._pipe, self._cuts = None, iter(())
        self._ready.clear()
        self._share.close()


class _PatientPipe:
    """A pipe whose reader lets other recordings decode while it waits for bytes: uploads may be slow."""

    def __init__(self, pipe: BytePipe, decoders: threading.Semaphore) -> None:
        self._pipe = pipe
        self._decoders = decoders

    def read(self, size: int = -1) -> bytes:
        """See `BytePipe.read`."""
        if self._pipe.ready:
            return self._pipe.read(size)
        with without_permit(self._decoders):
            return self._pipe.read(size)


class Chunker:
    """Cuts recordings into windows or chunks, on request."""

    def __init__(self, settings: RecordingSettings, timers: Timers | None = None) -> None:
        """`timers` replaces the event loop in tests."""
        ignore_unwritten_lines()
        return_freed_memory()  # before the decoders' threads begin
        self._own_timers = timers
        self._settings = settings
        self._sessions: dict[str, ChunkingSession] = {}
        # A thread for each session, because a decoder that waits for its upload keeps its thread.
        self._threads = ThreadPoolExecutor(settings.max_sessions, thread_name_prefix="chunker")
        self._decoders = threading.Semaphore(settings.decoders)
        self._memory = DecodedMemory(settings.decoded_mb * 2**20, settings.decoded_wait_s)
        self._processes = shared_decoder_processes(settings.decoder)
        self._processes.start()
        self._live = LiveTurns()

    async def open(self, name: str, task: CuttingTask, cut_settings: Any) -> Failure | None:
        """Starts a session. `cut_settings` are those of the task's `cut`."""
        if len(self._sessions) >= self._settings.max_sessions:
            cause = f"{len(self._sessions)} recordings are in progress, as many as this service takes."
            return Failure("overloaded", cause, "Try again later.", code="too_many_recordings")
        now_s = self._timers.time()
        share = self._memory.share()
        session = ChunkingSession(
            task, cut_settings, self._settings, now_s, self._decoders, self._processes.open, share
        )
        self._sessions[name] = session
        self._close_when_idle(name)
        return None

    async def feed(self, name: str, block: bytes, last: bool) -> Failure | None:
        """Takes the next bytes of the recording, when there is room for them."""
        session = self._session(name)
        if session is None:
            return _lost()
        await session.feed(block, last=last)
        return None

    async def next(self, name: str) -> Cut | Failure | None:
        """The next ticket, or None after the last."""
        session = self._session(name)
        if session is None:
            return _lost()
        session.cutting = True
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, session.cut)
        except Exception as error:
            return logged_failure(error, "The audio helper")
        finally:
            session.cutting, session.used_at_s = False, self._timers.time()

    async def fetch(self, name: str, index: int) -> Any:
        """The window or chunk of a ticket, once; a `Failure` if it is gone."""
        session = self._session(name)
        payload = session.fetch(index) if session else None
        return payload if payload is not None else _lost()

    async def drop(self, name: str, index: int) -> None:
        """Frees the window or chunk of a ticket that is not fetched."""
        if session := self._session(name):
            session.fetch(index)

    async def keep(self, name: str) -> None:
        """Counts as use of the session: the gateway waits for a model, and asks for the next window after that."""
        self._session(name)

    async def close(self, name: str) -> None:
        """Ends a session. Safe to call twice."""
        session = self._sessions.pop(name, None)
        if session is not None:
            session.close()

    async def find_speech(self, frames: Sequence[LiveFrames], closed: Sequence[str]) -> list[list[float]] | Failure:
        """See `LiveTurns.find_speech`."""
        return await self._live.find_speech(frames, closed)

    async def judge_turn(self, session: str, start: int, end: int) -> float | Failure | None:
        """See `LiveTurns.judge_turn`."""
        return await self._live.judge_turn(session, start, end)

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
