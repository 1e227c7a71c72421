"""Joins overlapping chunks into one recording with a complementary fade.

`join` takes two neighbours and keeps no state, so any replica can do the next join. The output of chunk k starts at sample
k * hop of the recording, and ends where the fade into chunk k + 1 begins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deployments.audio.chunking import ChunkPlan
from deployments.engines.protocols import Samples
from deployments.errors import fail


def fade_in(length: int) -> NDArray[np.float64]:
    """The rising half of a fade over `length` samples, float64 (length,). The falling half is `1 - fade_in(length)`.

    A raised cosine, sin^2(pi (i + 1/2) / 2 length) (Harris 1978, the Hann window). Halves that sum to one keep the level of
    sounds that are alike on both sides, as the two versions of an overlap are. Both halves are above zero everywhere, which
    needs float64.
    """
    weights: NDArray[np.float64] = np.sin(np.pi / 2 * (np.arange(length) + 0.5) / max(length, 1)) ** 2
    return weights


def join(previous: Samples | None, current: Samples, plan: ChunkPlan, index: int, last: bool) -> Samples:
    """The samples of the recording that are complete once chunk `index` is there, float32 and new in memory.

    `current` and `previous` are neighbours, (n,) or (channels, n) float32. `previous` is None for chunk 0; only its last
    `plan.overlap_samples` are read. The result is the fade from `previous` into `current`, then `current` up to the fade into
    the next chunk, or to its end if it is the `last`. A last chunk no longer than the overlap has no new samples, and
    `previous` ends the recording.

    Raises `MotetError` (engine) if a chunk is not as long as the plan says.
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
