"""From a recording to its stems: cuts into chunks, calls the engine, and joins neighbours with a fade."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from deployments.audio.chunking import AudioChunker, ChunkPlan, PlannedChunk, plan_chunks
from deployments.audio.decode import AudioDecoder, decode_all
from deployments.audio.file_source import ByteSource
from deployments.audio.overlap_add import join
from deployments.audio.resample import Resampler, rate_for
from deployments.audio.sound_decoder import BLOCK_SECONDS, AudioInfo, OpenDecoder, SoundDecoder, decoded_bytes
from deployments.engines.protocols import Chunk, Samples, SeparationEngine, SeparationTraits, Stems
from deployments.errors import MotetError, fail, quoted
from deployments.settings import SeparationSettings
from deployments.tasks.engine_calls import Item, LocalBatch, LocalCall, Started, in_order, next_here, run_here

GAPS_FILE = "gaps.json"
"""The file that lists gaps beside the stems of an archive."""

OdeMethod = Literal["midpoint", "euler"]
"""Two evaluations of the network for each step of the solver, or one."""

LEAST_ODE_STEP, MOST_ODE_STEP = 1 / 64, 1 / 2
"""The step sizes that a request may choose, so that a chunk takes at most 64 steps."""


MAX_REFERENCE_S = 60.0
"""The longest `reference`."""


@dataclass(frozen=True, slots=True)
class SeparationTask:
    """How to separate a recording. `sample_rates` are those the model takes, in Hz; seconds are of audio.

    `description` and `reference` (an encoded recording of up to `MAX_REFERENCE_S`) say what to take out, and `ode_method` and
    `ode_step_size` how (see `Chunk`), to a model that takes them. `size_bytes` is the recording's, where it is known.
    """

    sample_rates: tuple[int, ...]
    chunk_seconds: float
    overlap_seconds: float
    description: str | None = None
    reference: bytes | None = None
    ode_method: OdeMethod | None = None
    ode_step_size: float | None = None
    size_bytes: int | None = None

    @classmethod
    def for_model(
        cls,
        traits: SeparationTraits,
        settings: SeparationSettings,
        chunk_seconds: float | None = None,
        overlap_seconds: float | None = None,
    ) -> SeparationTask:
        """The task for a model. For None the settings' values are used. A chunk is at most as long as the model takes, and
        the default overlap is the settings' share of a chunk, at most their overlap."""
        wanted = settings.chunk_s if chunk_seconds is None else chunk_seconds
        chunk = wanted if traits.most_chunk_seconds is None else min(wanted, traits.most_chunk_seconds)
        overlap = min(settings.overlap_s, chunk * settings.overlap_s / settings.chunk_s)
        return cls(traits.sample_rates, chunk, overlap if overlap_seconds is None else overlap_seconds)

    def cut(
        self, file: ByteSource, max_audio_s: float, open_decoder: OpenDecoder = AudioDecoder
    ) -> Generator[tuple[ChunkTicket, Chunk]]:
        """Decodes, resamples and cuts as it is asked. Raises what the decoder and `plan_chunks` raise, the former with the
        param `reference` for that."""
        decoder = open_decoder(file, mono=False, max_seconds=max_audio_s, size_bytes=self.size_bytes)
        with closing(decoder):
            channels, rate = decoder.info.channels, rate_for(decoder.info.sample_rate, self.sample_rates)
            plan = plan_chunks(self.chunk_seconds, self.overlap_seconds, rate)
            reference = _reference(self, rate, open_decoder)
            for chunk in _planned_chunks(decoder, plan, rate):
                ticket = ChunkTicket(chunk.index, chunk.last, rate, channels, plan)
                ode = (self.ode_method, self.ode_step_size)
                yield ticket, Chunk(chunk.samples, rate, chunk.index, self.description, reference, *ode)

    def held_bytes(self, info: AudioInfo, _: float = 0.0) -> int:
        """The bytes of a chunk that is filled, of one that was cut, of a block of the file, and of the longest reference,
        twice while its blocks are joined."""
        rate = rate_for(info.sample_rate, self.sample_rates)
        block = decoded_bytes(BLOCK_SECONDS, info.sample_rate, info.channels)
        reference = decoded_bytes(2 * MAX_REFERENCE_S, rate, 1) if self.reference is not None else 0
        return decoded_bytes(2 * self.chunk_seconds, rate, info.channels) + block + reference


@dataclass(frozen=True, slots=True)
class ChunkTicket:
    """What is known of a chunk without its samples. `plan` is in samples at `sample_rate` Hz."""

    index: int
    last: bool
    sample_rate: int
    channels: int
    plan: ChunkPlan


@dataclass(frozen=True, slots=True)
class Gap:
    """A chunk that no replica could separate, from `start` to `end` in seconds of the recording. Its stems are silent, and
    its neighbours fade into it."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Merged:
    """The next finished samples of every stem, each (channels, n) float32 at `sample_rate` Hz, and the gap that the newest of
    their chunks left, if it did."""

    stems: dict[str, Samples]
    sample_rate: int
    gap: Gap | None = None

    @property
    def seconds(self) -> float:
        """Duration."""
        return max((samples.shape[-1] for samples in self.stems.values()), default=0) / self.sample_rate


def ensure_takes(task: SeparationTask, traits: SeparationTraits, model: str) -> None:
    """Raises `MotetError` (unsupported) for a description, a reference or options of the solver that the model does not
    take."""
    given = {
        "description": (task.description, traits.takes_description, "a description"),
        "reference": (task.reference, traits.takes_reference, "a reference"),
        "ode_method": (task.ode_method, traits.takes_ode_options, "options of a solver"),
        "ode_step_size": (task.ode_step_size, traits.takes_ode_options, "options of a solver"),
    }
    for param, (value, taken, what) in given.items():
        if value is not None and not taken:
            cause = f"The model {quoted(model)} does not take {what}."
            raise fail("unsupported", cause, "Leave it out.", param=param)


def _planned_chunks(decoder: SoundDecoder, plan: ChunkPlan, sample_rate: int) -> Iterator[PlannedChunk]:
    channels = decoder.info.channels
    resampler, chunker = Resampler(decoder.info.sample_rate, sample_rate, channels), AudioChunker(plan, channels)
    for block in decoder:
        yield from chunker.push(resampler.push(block))
    yield from chunker.push(resampler.finish())
    yield from chunker.finish()


def _reference(task: SeparationTask, rate: int, open_decoder: OpenDecoder) -> Samples | None:
    if task.reference is None:
        return None
    try:
        rows = decode_all(task.reference, rate, mono=True, max_seconds=MAX_REFERENCE_S, open_decoder=open_decoder)
    except MotetError as error:
        raise MotetError(replace(error.failure, param="reference")) from error
    return np.ascontiguousarray(rows[0])


async def separate(
    calls: AsyncGenerator[tuple[Item, Started]],
    join_next: Callable[[Started | None, Item, Started], Awaitable[Merged]],
) -> AsyncGenerator[Merged]:
    """The separated recording, in order.

    `calls` are the chunks with their started calls of the engine, in order, and `join_next` gives the samples that are
    finished once a chunk and the one before it are there. What a chunk and a call are is the caller's: values in one process,
    references in the service.
    """
    previous: Started | None = None
    async with aclosing(calls):
        async for chunk, call in calls:
            yield await join_next(previous, chunk, call)
            previous = call


def separate_here(
    file: ByteSource, task: SeparationTask, engine: SeparationEngine, max_audio_s: float, width: int = 1
) -> Iterator[Merged]:
    """The stems of a recording by an engine in this process; up to `width` neighbouring chunks share a batch."""
    chunks = task.cut(file, max_audio_s)
    batch = LocalBatch(engine.separate)

    async def join_next(
        previous: LocalCall[Chunk, Stems] | None, cut: tuple[ChunkTicket, Chunk], current: LocalCall[Chunk, Stems]
    ) -> Merged:
        before = None if previous is None else await previous
        return join_stems(before, await current, cut[0].plan, cut[0].last)

    with closing(chunks):
        calls = in_order(lambda: next_here(chunks), lambda cut: batch.start(cut[1]), width)
        yield from run_here(separate(calls, join_next))


def silent_stems(chunk: Chunk, names: Sequence[str]) -> Stems:
    """Stems of silence in place of those of a chunk."""
    return Stems({name: np.zeros_like(chunk.samples) for name in names}, chunk.sample_rate, chunk.index)


def join_stems(previous: Stems | None, current: Stems, plan: ChunkPlan, last: bool) -> Merged:
    """Joins every stem of two neighbouring chunks. See `overlap_add.join`."""
    merged = {
        name: join(None if previous is None else previous.stems[name], samples, plan, current.index, last)
        for name, samples in current.stems.items()
    }
    return Merged(merged, current.sample_rate)
