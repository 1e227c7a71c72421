"""From a recording to chunks that can be separated, wherever the engine runs."""

from __future__ import annotations

from collections.abc import Iterator

from deployments.audio.chunking import AudioChunker, ChunkPlan, PlannedChunk
from deployments.audio.decode import AudioDecoder
from deployments.audio.resample import Resampler
from deployments.settings import SeparationSettings


def usual_overlap_seconds(settings: SeparationSettings, chunk_seconds: float) -> float:
    """How much neighbours overlap when nobody says: the settings' share of a chunk, and at most their overlap."""
    return min(settings.overlap_s, chunk_seconds * settings.overlap_s / settings.chunk_s)


def chunks_of(decoder: AudioDecoder, plan: ChunkPlan, sample_rate: int) -> Iterator[PlannedChunk]:
    """Resamples and cuts as the decoder goes on. Raises what the decoder raises."""
    channels = decoder.info.channels
    resampler, chunker = Resampler(decoder.info.sample_rate, sample_rate, channels), AudioChunker(plan, channels)
    for block in decoder:
        yield from chunker.push(resampler.push(block))
    yield from chunker.push(resampler.finish())
    yield from chunker.finish()
