"""Unchanged chunks are joined to the original recording, for every plan and every tail length."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.audio.chunking import AudioChunker, ChunkPlan, PlannedChunk
from deployments.audio.overlap_add import fade_in, join
from deployments.engines.protocols import Samples
from deployments.errors import MotetError


@st.composite
def recordings(draw: st.DrawFn) -> tuple[ChunkPlan, Samples, list[int]]:
    """A plan, a recording (channels, n), and where its blocks end; lengths about the edges of chunks are common."""
    chunk = draw(st.integers(1, 400))
    plan = ChunkPlan(chunk, draw(st.sampled_from((0, chunk // 2)) | st.integers(0, chunk // 2)))
    edges = [base + plan.hop * k + d for base in (0, plan.overlap_samples) for k in range(5) for d in (-1, 0, 1)]
    length = draw(st.integers(1, 1500) | st.sampled_from([edge for edge in edges if edge > 0]))
    shape = (draw(st.integers(1, 2)), length)
    samples = np.random.default_rng(draw(st.integers(0, 9))).uniform(-1, 1, shape).astype(np.float32)
    return plan, samples, sorted(draw(st.lists(st.integers(0, length), max_size=6)))


def cut(plan: ChunkPlan, samples: Samples, ends: list[int]) -> list[PlannedChunk]:
    chunker = AudioChunker(plan, len(samples))
    blocks = pairwise([0, *ends, samples.shape[1]])
    return [chunk for start, end in blocks for chunk in chunker.push(samples[:, start:end])] + chunker.finish()


def joined(plan: ChunkPlan, chunks: list[PlannedChunk]) -> list[Samples]:
    before = [None, *(chunk.samples for chunk in chunks)]
    return [join(previous, c.samples, plan, c.index, c.last) for previous, c in zip(before, chunks, strict=False)]


@settings(max_examples=300)
@given(recordings())
def test_joined_neighbours_rebuild_the_recording(recording: tuple[ChunkPlan, Samples, list[int]]) -> None:
    plan, samples, _ = recording
    chunks = cut(*recording)
    parts = joined(plan, chunks)
    for chunk, part in zip(chunks[:-1], parts, strict=False):
        assert part.shape == (len(samples), plan.hop), chunk.index
    rebuilt = np.concatenate(parts, axis=-1)
    assert rebuilt.dtype == np.float32
    np.testing.assert_allclose(rebuilt, samples, rtol=0, atol=1e-6)


@settings(max_examples=100)
@given(recordings())
def test_joined_neighbours_rebuild_a_mono_recording(recording: tuple[ChunkPlan, Samples, list[int]]) -> None:
    plan, samples, _ = recording
    mono = [replace(chunk, samples=chunk.samples[0]) for chunk in cut(*recording)]
    np.testing.assert_allclose(np.concatenate(joined(plan, mono)), samples[0], rtol=0, atol=1e-6)


@settings(max_examples=100)
@given(recordings())
def test_no_sample_is_lost_or_said_twice(recording: tuple[ChunkPlan, Samples, list[int]]) -> None:
    plan, samples, ends = recording
    ramp = np.arange(samples.shape[1], dtype=np.float32)[np.newaxis]
    assert (np.diff(np.concatenate(joined(plan, cut(plan, ramp, ends)), axis=-1)) == 1).all()


@given(st.integers(1, 5000) | st.sampled_from((48_000, 144_000)))
def test_fades_are_complementary_and_never_zero(length: int) -> None:
    rising = fade_in(length)
    falling = 1 - rising
    assert rising.shape == (length,)
    assert (rising > 0).all() and (falling > 0).all()
    assert (rising + falling == 1).all()
    assert (np.diff(rising) > 0).all()
    np.testing.assert_allclose(falling, rising[::-1], atol=1e-12)


@pytest.mark.parametrize("chunk", [8, 10])
def test_the_fade_leads_from_one_chunk_into_the_next(chunk: int) -> None:
    zeros, ones = np.zeros((1, chunk), np.float32), np.ones((1, chunk), np.float32)
    part = join(zeros, ones, ChunkPlan(chunk, 4), index=1, last=False)
    np.testing.assert_allclose(part[0], [*fade_in(4), *[1] * (chunk - 8)], rtol=1e-6)


def test_the_end_of_the_previous_chunk_is_enough() -> None:
    plan = ChunkPlan(10, 4)
    previous, current = np.random.default_rng(0).uniform(-1, 1, (2, 2, 10)).astype(np.float32)
    np.testing.assert_array_equal(
        join(previous[:, -4:], current, plan, 3, True), join(previous, current, plan, 3, True)
    )


@pytest.mark.parametrize("tail", [0, 1, 3, 4])
@pytest.mark.parametrize("chunk", [8, 10])
def test_a_tail_inside_the_overlap_brings_nothing_new(tail: int, chunk: int) -> None:
    samples = np.arange(chunk, dtype=np.float32)
    part = join(samples, -samples[:tail] - 1, ChunkPlan(chunk, 4), index=1, last=True)
    np.testing.assert_array_equal(part, samples[-4:])


def test_the_result_is_no_view_of_the_chunks() -> None:
    first = np.ones((1, 6), np.float32)
    start = join(None, first, ChunkPlan(6, 2), index=0, last=False)
    first[:] = 9
    np.testing.assert_array_equal(start, np.ones((1, 4)))


@pytest.mark.parametrize(
    ("previous", "current", "last"),
    [
        pytest.param((1, 10), (1, 9), False, id="short in the middle"),
        pytest.param((1, 10), (1, 11), True, id="too long"),
        pytest.param((1, 3), (1, 10), False, id="neighbour shorter than the fade"),
        pytest.param(None, (1, 10), False, id="no neighbour"),
        pytest.param((1, 10), (2, 10), False, id="other channels"),
    ],
)
def test_chunks_that_do_not_fit_are_refused(
    previous: tuple[int, int] | None, current: tuple[int, int], last: bool
) -> None:
    before = None if previous is None else np.zeros(previous, np.float32)
    with pytest.raises(MotetError) as caught:
        join(before, np.zeros(current, np.float32), ChunkPlan(10, 4), 1, last)
    assert caught.value.failure.kind == "engine"
