"""What separation engines share: the check of a chunk, and batches of chunks of equal shape."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from deployments.engines.protocols import Chunk, SeparationTraits, Stems
from deployments.errors import MotetError, fail


def chunk_error(chunk: Chunk, traits: SeparationTraits) -> MotetError | None:
    """Why a model of these traits cannot separate the chunk, or None if it can.

    A chunk must be float32 (channels, n), not empty, without NaN and infinity, at one of the model's sample rates.
    """
    samples = chunk.samples
    if chunk.sample_rate not in traits.sample_rates:
        rates = ", ".join(map(str, traits.sample_rates))
        cause = f"The audio has {chunk.sample_rate} Hz, which this model does not take."
        return fail("invalid", cause, f"Resample it to one of {rates} Hz.", param="sample_rate")
    if samples.ndim != 2 or samples.dtype != np.float32 or samples.size == 0:
        cause = f"Chunk {chunk.index} is {samples.dtype} of shape {samples.shape}."
        return fail("invalid", cause, "Send float32 of shape (channels, samples), neither of them zero.", param="file")
    if not np.isfinite(samples).all():
        cause = f"Chunk {chunk.index} has samples that are not finite numbers."
        return fail("invalid", cause, "Send a recording whose samples lie in [-1, 1].", param="file")
    return None


def in_equal_batches(
    chunks: Sequence[Chunk],
    traits: SeparationTraits,
    separate: Callable[[Sequence[Chunk]], Sequence[Stems | Exception]],
) -> list[Stems | Exception]:
    """Calls `separate` with the valid chunks, once for each sample rate and length. Gives the results in the chunks' order,
    with the `chunk_error` of each invalid chunk in its place."""
    results: dict[int, Stems | Exception] = {}
    batches: dict[tuple[int, int], list[int]] = defaultdict(list)
    for position, chunk in enumerate(chunks):
        if error := chunk_error(chunk, traits):
            results[position] = error
        else:
            batches[chunk.sample_rate, chunk.samples.shape[1]].append(position)
    for positions in batches.values():
        results |= zip(positions, separate([chunks[position] for position in positions]), strict=True)
    return [results[position] for position in range(len(chunks))]
