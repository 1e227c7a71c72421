"""Joins overlapping chunks into one recording with a complementary fade.

`join` looks at two neighbours only and keeps nothing, so any replica can do the next one. The output of chunk k starts
at sample k * hop of the whole, and ends where the fade into chunk k + 1 begins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deployments.audio.chunking import ChunkPlan
from deployments.engines.protocols import Samples
from deployments.errors import fail


def fade_in(length: int) -> NDArray[np.float64]:
    """The rising half of a fade over `length` samples; the falling half is `1 - fade_in(length)`.

    A raised cosine, sin^2(pi (i + 1/2) / 2 length) (Harris 1978, the Hann window). Fades whose halves sum to one keep
    the level of sounds that are alike on both sides, as the two versions of an overlap are. Both halves are above
    zero everywhere, which float32 could not hold.
    """
    weights: NDArray[np.float64] = np.sin(np.pi / 2 * (np.arange(length) + 0.5) / max(length, 1)) ** 2
    return weights


def join(previous: Samples | None, current: Samples, plan: ChunkPlan, index: int, last: bool) -> Samples:
    """The part of the recording that is finished once chunk `index` is there.

    `current` and `previous` are neighbours, (n,) or (channels, n) float32; of `previous` only the last
    `plan.overlap_samples` are read, so a caller may keep no more than those; it is None for chunk 0. Returns the fade
    out of `previous` into `current`, then `current` up to the fade into the next chunk, or all of it when `last`.
    A tail no longer than the overlap brings nothing new, and `previous` ends the recording.

    Raises an `engine` `MotetError` when a chunk is not as long as the plan says.
    """
    overlap = plan.overlap_samples if index else 0
    _check(previous, current, plan, index, last)
    end = current.shape[-1] if last else plan.hop
    if previous is None or overlap == 0:
        return current[..., :end].copy()
    leaving = previous[..., previous.shape[-1] - overlap :]
    if end <= overlap and last:
        return leaving.copy()
    faded = _crossfade(leaving, current[..., :overlap])
    return np.concatenate((faded, current[..., overlap:end]), axis=-1)


def _crossfade(leaving: Samples, entering: Samples) -> Samples:
    rising = fade_in(entering.shape[-1])
    return ((1 - rising) * leaving + rising * entering).astype(np.float32)


def _check(previous: Samples | None, current: Samples, plan: ChunkPlan, index: int, last: bool) -> None:
    length = current.shape[-1]
    if length > plan.chunk_samples or (length < plan.chunk_samples and not last):
        raise _misfit(index, f"{length} samples where the plan says {plan.chunk_samples}")
    if index and plan.overlap_samples and (previous is None or previous.shape[-1] < plan.overlap_samples):
        raise _misfit(index, f"no {plan.overlap_samples} samples of its predecessor")
    if previous is not None and previous.shape[:-1] != current.shape[:-1]:
        raise _misfit(index, f"channels {current.shape[:-1]} where its predecessor has {previous.shape[:-1]}")


def _misfit(index: int, what: str) -> Exception:
    return fail(
        "engine",
        f"Chunk {index} of the separated recording came with {what}.",
        "Try again; if it happens again, report the model and the request id.",
        code="chunk_misfit",
    )
