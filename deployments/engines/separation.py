"""What separation engines share: the check of a chunk, batches of chunks of equal shape, batches of channels, and stereo."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from deployments.engines.protocols import Chunk, Samples, SeparationTraits, Stems
from deployments.errors import MotetError, fail


def chunk_error(chunk: Chunk, traits: SeparationTraits) -> MotetError | None:
    """Why a model of these traits cannot separate the chunk, or None if it can.

    A chunk must be float32 (channels, n), not empty, without NaN and infinity, at one of the model's sample rates, and no
    larger than the model takes.
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
    return _size_error(chunk, traits)


def _size_error(chunk: Chunk, traits: SeparationTraits) -> MotetError | None:
    channels, length = chunk.samples.shape
    if traits.most_channels is not None and channels > traits.most_channels:
        cause = f"The recording has {channels} channels; this model takes at most {traits.most_channels}."
        return fail("invalid", cause, "Mix it to fewer channels.", param="file")
    most = traits.most_chunk_seconds
    if most is not None and length > round(most * chunk.sample_rate):
        cause = f"Chunk {chunk.index} lasts {length / chunk.sample_rate:g} s; this model takes at most {most:g} s."
        return fail("invalid", cause, "Send shorter chunks.", param="chunk_seconds")
    return None


def in_equal_batches(
    chunks: Sequence[Chunk], traits: SeparationTraits, separate: Callable[[Sequence[Chunk]], Sequence[Stems]]
) -> list[Stems | Exception]:
    """Calls `separate` with the valid chunks, once for each sample rate, length and solver. Gives the results in the
    chunks' order, with the `chunk_error` of each invalid chunk in its place. The chunks of a batch that fails are separated
    one by one."""
    results: dict[int, Stems | Exception] = {}
    batches: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for position, chunk in enumerate(chunks):
        if error := chunk_error(chunk, traits):
            results[position] = error
        else:
            alike = (chunk.sample_rate, chunk.samples.shape[1], chunk.ode_method, chunk.ode_step_size)
            batches[alike].append(position)
    for positions in batches.values():
        results |= zip(positions, _apart_if_it_fails([chunks[p] for p in positions], separate), strict=True)
    return [results[position] for position in range(len(chunks))]


def _apart_if_it_fails(
    chunks: Sequence[Chunk], separate: Callable[[Sequence[Chunk]], Sequence[Stems]]
) -> Sequence[Stems | Exception]:
    try:
        return separate(chunks)
    except Exception as error:
        if len(chunks) == 1:
            return [error]
    return [_apart_if_it_fails([chunk], separate)[0] for chunk in chunks]


def channel_by_channel(chunks: Sequence[Chunk], process: Callable[[Samples], Samples]) -> list[Samples]:
    """Calls `process` once with the channels of all chunks as rows, (rows, n), and splits its result, of the same shape, into
    the chunks' shapes."""
    processed = process(np.concatenate([chunk.samples for chunk in chunks]))
    ends = np.cumsum([len(chunk.samples) for chunk in chunks])
    return np.split(processed, ends[:-1])


def speech_and_background(chunk: Chunk, speech: Samples) -> Stems:
    """The stems `speech` and `background`, which sum to the chunk."""
    return Stems({"speech": speech, "background": chunk.samples - speech}, chunk.sample_rate, chunk.index)


def in_stereo(chunks: Sequence[Chunk]) -> Samples:
    """Chunks of one length as (chunks, 2, n); the only channel of a mono chunk twice."""
    return np.stack([np.broadcast_to(chunk.samples, (2, chunk.samples.shape[1])) for chunk in chunks])


def from_stereo(chunk: Chunk, parts: Mapping[str, Samples]) -> Stems:
    """The stems of a chunk that a model heard `in_stereo`, from its parts (2, n); those of a mono chunk are the means of both
    channels."""
    if len(chunk.samples) == 1:
        parts = {name: part.mean(axis=0, keepdims=True) for name, part in parts.items()}
    return Stems(dict(parts), chunk.sample_rate, chunk.index)
