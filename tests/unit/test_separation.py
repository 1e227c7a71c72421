"""The separation driver in one process: neighbouring chunks share batches, and the recording comes back whole."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deployments.audio.decode import decode_all
from deployments.engines.protocols import Chunk, SeparationTraits, Stems
from deployments.errors import MotetError
from deployments.settings import SeparationSettings
from deployments.tasks.separation import SeparationTask, ensure_takes, separate_here
from tests.unit.test_decode import make

RATE = 16_000
TASK = SeparationTask((RATE,), chunk_seconds=1.0, overlap_seconds=0.25)


class Halves:
    """An engine of two stems that sum to the recording. It keeps its batches."""

    traits = SeparationTraits((RATE,), ("left", "right"), takes_description=False, takes_reference=False)

    def __init__(self, failing: int | None = None) -> None:
        self.failing = failing
        self.batches: list[list[int]] = []

    def separate(self, chunks: Sequence[Chunk]) -> list[Stems | Exception]:
        self.batches.append([chunk.index for chunk in chunks])
        return [
            ValueError("no") if chunk.index == self.failing else self._stems(chunk, np.float32(0.25))
            for chunk in chunks
        ]

    def _stems(self, chunk: Chunk, share: np.float32) -> Stems:
        stems = {"left": chunk.samples * share, "right": chunk.samples * (1 - share)}
        return Stems(stems, chunk.sample_rate, chunk.index)


@pytest.mark.parametrize("width", [1, 3])
def test_stems_sum_to_the_recording_whatever_the_batches(width: int) -> None:
    recording, engine = make("wav16", seconds=5), Halves()
    parts = list(separate_here(io.BytesIO(recording), TASK, engine, 60.0, width))
    stems = [np.concatenate([part.stems[name] for part in parts], axis=-1) for name in ("left", "right")]
    whole = decode_all(recording, sample_rate=RATE, mono=False, max_seconds=60)
    np.testing.assert_allclose(stems[0] + stems[1], whole, atol=1e-6)
    chunks = list(range(len(parts)))
    assert engine.batches == [chunks[at : at + width] for at in range(0, len(parts), width)]
    assert sum(part.seconds for part in parts) == pytest.approx(5.0)


def test_a_chunk_that_fails_ends_the_recording() -> None:
    parts = separate_here(io.BytesIO(make("wav16", seconds=5)), TASK, Halves(failing=1), 60.0, 2)
    next(parts)
    with pytest.raises(ValueError, match="no"):
        next(parts)


def test_what_is_not_a_recording_is_refused() -> None:
    with pytest.raises(MotetError):
        next(separate_here(io.BytesIO(b"no sound"), TASK, Halves(), 60.0))


@pytest.mark.parametrize(
    ("asked", "chunk", "overlap"),
    [((), 7.8, 2.34), ((20.0,), 7.8, 2.34), ((4.0,), 4.0, 1.2), ((4.0, 0.5), 4.0, 0.5), ((None, 1.0), 7.8, 1.0)],
)
def test_a_chunk_is_no_longer_than_the_model_takes(asked: tuple[Any, ...], chunk: float, overlap: float) -> None:
    traits = replace(Halves.traits, most_chunk_seconds=7.8)
    task = SeparationTask.for_model(traits, SeparationSettings(chunk_s=10, overlap_s=3), *asked)
    assert task.chunk_seconds == chunk
    assert task.overlap_seconds == pytest.approx(overlap)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"description": "a dog"}, "description"),
        ({"reference": b"RIFF"}, "reference"),
        ({"ode_method": "euler"}, "ode_method"),
        ({"ode_step_size": 0.25}, "ode_step_size"),
    ],
)
def test_what_a_model_does_not_take_is_refused(given: dict[str, Any], param: str) -> None:
    with pytest.raises(MotetError, match="'halves' does not take") as caught:
        ensure_takes(replace(TASK, **given), Halves.traits, "halves")
    assert (caught.value.failure.kind, caught.value.failure.param) == ("unsupported", param)
    taking = replace(Halves.traits, takes_description=True, takes_reference=True, takes_ode_options=True)
    ensure_takes(replace(TASK, **given), taking, "halves")


def test_a_long_reference_is_refused() -> None:
    task = replace(TASK, reference=make("wav16", seconds=61))
    with pytest.raises(MotetError, match="longer than the limit of 60 seconds") as caught:
        next(task.cut(io.BytesIO(make("wav16", seconds=2)), 600))
    assert (caught.value.failure.kind, caught.value.failure.param) == ("too_large", "reference")


def test_options_of_the_solver_reach_the_chunks() -> None:
    task = replace(TASK, ode_method="euler", ode_step_size=0.25, description="a dog")
    chunks = [chunk for _, chunk in task.cut(io.BytesIO(make("wav16", seconds=2)), 60)]
    found = {(chunk.description, chunk.ode_method, chunk.ode_step_size) for chunk in chunks}
    assert len(chunks) > 1 and found == {("a dog", "euler", 0.25)}
