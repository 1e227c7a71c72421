"""Encodes the stems of a recording while it is being separated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from deployments.audio.encode import Encoder, open_encoder
from deployments.audio.formats import AudioFormat
from deployments.tasks.separation import Merged


async def encoded(
    merged: AsyncGenerator[Merged], stems: Sequence[str], audio: AudioFormat
) -> AsyncGenerator[tuple[str, bytes]]:
    """Each stem's name and next bytes, as they are ready, with one muxer per stem. Encoding runs on a thread."""
    encoders: dict[str, Encoder] = {}
    try:
        async with aclosing(merged):
            async for part in merged:
                for stem in stems:
                    samples = part.stems[stem]
                    if stem not in encoders:
                        encoders[stem] = open_encoder(audio, part.sample_rate, len(samples))
                    yield stem, await asyncio.to_thread(encoders[stem].encode, samples)
        for stem, encoder in encoders.items():
            yield stem, await asyncio.to_thread(encoder.finish)
    finally:
        for encoder in encoders.values():
            encoder.close()


async def one_stem(merged: AsyncGenerator[Merged], stem: str, audio: AudioFormat) -> AsyncGenerator[bytes]:
    """One stem's bytes, as they are ready."""
    async with aclosing(encoded(merged, (stem,), audio)) as parts:
        async for _, data in parts:
            if data:
                yield data
