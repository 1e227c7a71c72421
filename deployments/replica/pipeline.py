"""The separation graph: chunk (CPU) -> separate (CUDA | MLX | CPU) -> overlap-merge (CPU).

`Chunker` decodes an upload as it arrives and cuts it. Each chunk then goes by object reference: the coordinator,
`SeparationGraph`, hands the answer of one deployment to the next without ever holding the samples. Only the finished,
merged stretch comes back to it by value, on its way out. Where there is one chunker, its process merges as well.

Ray Serve streams have no flow control, so the chunker is asked for one chunk at a time. An upload's session lives in one
chunker; each chunker is a deployment of its own with one replica, which is what pins a session to it. (Ray 2.60's
consistent-hash router would be the usual way, but it leaves one of two requests that arrive together waiting for ever.)
A session that is not asked for a while is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.audio.byte_pipe import BytePipe
from deployments.audio.chunking import AudioChunker as Cutter
from deployments.audio.chunking import ChunkPlan, PlannedChunk, plan_chunks
from deployments.audio.decode import AudioDecoder, decode_all
from deployments.audio.overlap_add import join
from deployments.audio.resample import Resampler, rate_for
from deployments.engines.protocols import Chunk, Samples, Stems
from deployments.errors import Failure, MotetError, in_one_line
from deployments.replica.error_log import logged_failure
from deployments.replica.malloc_trim import return_freed_memory
from deployments.settings import SeparationSettings

REPLICA_GONE = (RayError, RayServeException)
"""What Ray raises when a replica ends or takes no more."""

ATTEMPTS = 2
"""A chunk that fails is separated once more, elsewhere where there is an elsewhere."""


@dataclass(frozen=True, slots=True)
class SeparationTask:
    """What to take apart and how. `sample_rates` are those the model takes; seconds are of audio. `size_bytes` is
    the recording's, where it is known."""

    sample_rates: tuple[int, ...]
    chunk_seconds: float
    overlap_seconds: float
    description: str | None = None
    reference: bytes | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ChunkTicket:
    """A chunk that is ready to be fetched. `plan` is in samples at `sample_rate` Hz."""

    index: int
    last: bool
    sample_rate: int
    channels: int
    plan: ChunkPlan


@dataclass(frozen=True, slots=True)
class Merged:
    """The next finished stretch of every stem, each (channels, n) float32."""

    stems: dict[str, Samples]
    sample_rate: int


@dataclass(slots=True)
class Session:
    """One upload on its way through a chunker replica."""

    pipe: BytePipe
    chunks: Iterator[tuple[ChunkTicket, Chunk]]
    ready: dict[int, Chunk] = field(default_factory=dict)
    touched: float = 0.0


class Chunker:
    """Cuts uploads into chunks, on request."""

    def __init__(self, settings: SeparationSettings) -> None:
        return_freed_memory()  # before the decoders' threads begin
        self._settings = settings
        self._sessions: dict[str, Session] = {}
        self._decoders = ThreadPoolExecutor(settings.max_sessions, thread_name_prefix="chunker")

    async def open(self, name: str, task: SeparationTask) -> Failure | None:
        """Starts a session."""
        self._close_idle()
        if len(self._sessions) >= self._settings.max_sessions:
            return Failure("overloaded", "Too many recordings are being separated.", "Try again in a moment.")
        pipe = BytePipe(self._settings.block_bytes * 4, self._settings.session_idle_s)
        chunks = _cut(pipe, task, self._settings)
        self._sessions[name] = Session(pipe, chunks, touched=time.monotonic())
        return None

    async def feed(self, name: str, block: bytes, last: bool) -> Failure | None:
        """Takes the next bytes of the upload, when there is room for them."""
        session = self._session(name)
        if session is None:
            return _lost()
        await session.pipe.write(block)
        if last:
            session.pipe.end()
        return None

    async def next(self, name: str) -> ChunkTicket | Failure | None:
        """The next chunk's ticket, or None after the last."""
        session = self._session(name)
        if session is None:
            return _lost()
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._decoders, next, session.chunks, None)
        except Exception as error:
            return logged_failure(error, "The chunker")
        if found is None:
            return None
        ticket, chunk = found
        session.ready[ticket.index] = chunk
        return ticket

    async def fetch(self, name: str, index: int) -> Chunk | Failure:
        """The chunk of a ticket, once."""
        session = self._session(name)
        chunk = session.ready.pop(index, None) if session else None
        return chunk if chunk is not None else _lost()

    async def close(self, name: str) -> None:
        """Forgets a session; safe to call twice."""
        session = self._sessions.pop(name, None)
        if session is not None:
            session.pipe.abort()

    async def sessions(self) -> int:
        """How many sessions are open."""
        return len(self._sessions)

    def _session(self, name: str) -> Session | None:
        session = self._sessions.get(name)
        if session is not None:
            session.touched = time.monotonic()
        return session

    def _close_idle(self) -> None:
        oldest = time.monotonic() - self._settings.session_idle_s
        for name in [name for name, session in self._sessions.items() if session.touched < oldest]:
            self._sessions.pop(name).pipe.abort()


def _lost() -> Failure:
    return Failure("unavailable", "The recording's session is gone.", "Send the file again.", code="session_lost")


def _cut(pipe: BytePipe, task: SeparationTask, settings: SeparationSettings) -> Generator[tuple[ChunkTicket, Chunk]]:
    """Decodes and cuts; it runs on a decoder thread. It knows nothing of its session, which holds it: the sound of every
    upload would stay in such a cycle until Python's collector looks for some, which it seldom does in a replica."""
    decoder = AudioDecoder(pipe, mono=False, max_seconds=settings.max_audio_s, size_bytes=task.size_bytes)
    try:
        rate = rate_for(decoder.info.sample_rate, task.sample_rates)
        plan = plan_chunks(task.chunk_seconds, task.overlap_seconds, rate)
        channels = decoder.info.channels
        cutter = Cutter(plan, channels)
        resampler = Resampler(decoder.info.sample_rate, rate, channels)
        reference = _reference(task, rate, settings)
        planned: list[PlannedChunk] = []
        for block in decoder:
            planned = cutter.push(resampler.push(block))
            yield from (_ticketed(chunk, task, reference, rate, channels, plan) for chunk in planned)
        planned = cutter.push(resampler.finish()) + cutter.finish()
        yield from (_ticketed(chunk, task, reference, rate, channels, plan) for chunk in planned)
    finally:
        decoder.close()


def _reference(task: SeparationTask, rate: int, settings: SeparationSettings) -> Samples | None:
    if task.reference is None:
        return None
    rows = decode_all(task.reference, sample_rate=rate, mono=True, max_seconds=settings.max_audio_s)
    return np.ascontiguousarray(rows[0])


def _ticketed(
    planned: PlannedChunk, task: SeparationTask, reference: Samples | None, rate: int, channels: int, plan: ChunkPlan
) -> tuple[ChunkTicket, Chunk]:
    ticket = ChunkTicket(planned.index, planned.last, rate, channels, plan)
    return ticket, Chunk(planned.samples, rate, planned.index, task.description, reference)


class Merger:
    """Joins neighbouring chunks. It keeps nothing, so any replica can do any join."""

    def __init__(self) -> None:
        return_freed_memory()

    async def join(
        self, previous: Stems | Failure | None, current: Stems | Failure, plan: ChunkPlan, last: bool
    ) -> Merged | Failure:
        """The stretch that is finished once `current` is there. See `overlap_add.join`."""
        if isinstance(previous, Failure):
            return previous
        if isinstance(current, Failure):
            return current
        try:
            return await asyncio.to_thread(join_stems, previous, current, plan, last)
        except Exception as error:
            return logged_failure(error, "The merger")


class ChunkerAndMerger(Chunker, Merger):
    """Both in one process: on one machine they share its cores in any case, and a process of Ray's is not small."""


def join_stems(previous: Stems | None, current: Stems, plan: ChunkPlan, last: bool) -> Merged:
    """Joins every stem of two neighbours."""
    merged = {
        name: join(None if previous is None else previous.stems[name], samples, plan, current.index, last)
        for name, samples in current.stems.items()
    }
    return Merged(merged, current.sample_rate)


class Place(Protocol):
    """Where chunks are separated: one model on one hardware class."""

    handle: DeploymentHandle[Any]

    def request(self) -> AbstractContextManager[None]:
        """Counts a chunk as under way."""

    async def while_alive(self, answer: Awaitable[Any], *, last: bool) -> Any:
        """The answer, unless no replica of the place lives. The `last` place is waited for while its replica starts."""

    def suspect(self) -> None:
        """Says that a replica seems to be gone: `pick` prefers other places until one answers."""


@dataclass(slots=True)
class InFlight:
    """A chunk under way: answers that have not been fetched, only passed on, and the place that counts it."""

    ticket: ChunkTicket
    chunk: Any
    place: Place
    stems: Any
    counted: ExitStack

    def leave(self) -> None:
        """The place no longer counts it. Safe to call twice."""
        self.counted.close()


class SeparationGraph:
    """Coordinates one recording's way. Holds references and finished stretches, never chunks."""

    def __init__(
        self, chunkers: Sequence[DeploymentHandle[Any]], merger: DeploymentHandle[Any], settings: SeparationSettings
    ) -> None:
        self._chunkers = itertools.cycle(chunkers)
        self._merger = merger.options(_by_reference=True)
        self._settings = settings

    async def run(
        self,
        upload: AsyncIterable[bytes],
        task: SeparationTask,
        pick_separator: Callable[[], Place],
    ) -> AsyncGenerator[Merged]:
        """The separated recording, stretch by stretch, in order. Raises `MotetError`."""
        name = uuid.uuid4().hex
        chunker = next(self._chunkers)
        feeding: asyncio.Task[None] | None = None
        under_way: deque[InFlight] = deque()
        try:
            _raise(await chunker.open.remote(name, task))
            feeding = asyncio.create_task(self._feed(chunker, name, upload))
            async for merged in self._in_order(chunker, name, under_way, pick_separator):
                yield merged
            await feeding
        except MotetError:
            if feeding is not None and feeding.done():
                await feeding  # what broke the upload says more than what its absence broke
            raise
        except REPLICA_GONE as error:
            raise MotetError(_gone(error)) from error
        finally:
            if feeding is not None:
                feeding.cancel()
            for item in under_way:
                item.stems.cancel()
                item.leave()
            with contextlib.suppress(Exception):
                chunker.close.remote(name)

    async def _feed(self, chunker: DeploymentHandle[Any], name: str, upload: AsyncIterable[bytes]) -> None:
        try:
            async for block in upload:
                _raise(await chunker.feed.remote(name, block, False))
            _raise(await chunker.feed.remote(name, b"", True))
        except Exception:
            await chunker.close.remote(name)  # wakes a decoder that waits for more
            raise

    async def _in_order(
        self,
        chunker: DeploymentHandle[Any],
        name: str,
        under_way: deque[InFlight],
        pick: Callable[[], Place],
    ) -> AsyncGenerator[Merged]:
        previous: InFlight | None = None
        ended = False
        while not ended or under_way:
            while not ended and len(under_way) < self._settings.chunks_in_flight:
                ticket = _raise(await chunker.next.remote(name))
                ended = ticket is None or ticket.last
                if ticket is not None:
                    chunk = chunker.options(_by_reference=True).fetch.remote(name, ticket.index)
                    under_way.append(_sent(ticket, chunk, pick()))
            if under_way:
                item = under_way[0]
                yield await self._join(previous, item, pick)
                item.leave()
                previous = under_way.popleft()

    async def _join(self, previous: InFlight | None, item: InFlight, pick: Callable[[], Place]) -> Merged:
        """The stretch of a chunk, which is separated once more where that failed, elsewhere if its place is gone."""
        for attempt in range(ATTEMPTS):
            last = attempt + 1 == ATTEMPTS
            try:
                merged = await self._try_join(previous, item, patient=last)
            except Exception:
                item.place.suspect()
                if last:
                    raise
                if previous is not None:  # its stems may have gone with the machine that held them
                    _send_again(previous, pick())
                    previous.leave()
            else:
                if isinstance(merged, Merged):
                    return merged
                if last or merged.kind not in ("engine", "unavailable"):
                    _raise(merged)
            _send_again(item, pick())
        raise AssertionError("the last attempt answers or raises")

    async def _try_join(self, previous: InFlight | None, item: InFlight, *, patient: bool) -> Merged | Failure:
        stems = None if previous is None else previous.stems
        joined = self._merger.join.remote(stems, item.stems, item.ticket.plan, item.ticket.last)
        merged: Merged | Failure = await item.place.while_alive(joined, last=patient)
        return merged


def _sent(ticket: ChunkTicket, chunk: Any, place: Place) -> InFlight:
    item = InFlight(ticket, chunk, place, None, ExitStack())
    _send(item, place)
    return item


def _send(item: InFlight, place: Place) -> None:
    item.place = place
    item.counted.enter_context(place.request())
    item.stems = place.handle.options(_by_reference=True).separate.remote(item.chunk)


def _send_again(item: InFlight, place: Place) -> None:
    item.stems.cancel()
    item.leave()
    _send(item, place)


def _raise(answer: Any) -> Any:
    if isinstance(answer, Failure):
        raise MotetError(answer)
    return answer


def _gone(error: Exception) -> Failure:
    return Failure(
        "unavailable",
        "A part of the service went away while the recording was being separated.",
        "Send the file again in a moment.",
        code="separation_interrupted",
        detail=in_one_line(error),
    )
