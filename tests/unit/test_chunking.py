"""Chunks cover a recording exactly, are cut as early as possible, and only the last one is marked as last."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.audio.chunking import AudioChunker, ChunkPlan, PlannedChunk, plan_chunks
from deployments.engines.protocols import Samples
from deployments.errors import MotetError


@st.composite
def plans(draw: st.DrawFn) -> ChunkPlan:
    chunk = draw(st.integers(1, 400))
    return ChunkPlan(chunk, draw(st.sampled_from((0, chunk // 2)) | st.integers(0, chunk // 2)))


def lengths(plan: ChunkPlan) -> st.SearchStrategy[int]:
    """Any length, with those where a chunk or an overlap just ends as likely as all others."""
    edges = [base + plan.hop * k + d for base in (0, plan.overlap_samples) for k in range(5) for d in (-1, 0, 1)]
    return st.integers(0, 1500) | st.sampled_from([edge for edge in edges if edge >= 0])


def ramp(length: int, channels: int = 1) -> Samples:
    """Samples that name their own place: a gap or a repeat shows as a wrong number."""
    return np.arange(channels * length, dtype=np.float32).reshape(channels, length)


def cut(whole: Samples, plan: ChunkPlan, block: int) -> list[PlannedChunk]:
    chunker = AudioChunker(plan, len(whole))
    blocks = range(0, whole.shape[1], block)
    pushed = [chunk for start in blocks for chunk in chunker.push(whole[:, start : start + block])]
    return pushed + chunker.finish()


@settings(max_examples=200)
@given(st.data(), plans(), st.integers(1, 2), st.integers(1, 900))
def test_chunks_cover_the_recording(data: st.DataObject, plan: ChunkPlan, channels: int, block: int) -> None:
    whole = ramp(data.draw(lengths(plan)), channels)
    chunks = cut(whole, plan, block)
    covered = 0
    for index, chunk in enumerate(chunks):
        end = chunk.start + chunk.samples.shape[1]
        assert (chunk.index, chunk.start) == (index, index * plan.hop)
        assert chunk.last == (index == len(chunks) - 1)
        assert chunk.samples.shape[1] == plan.chunk_samples or chunk.last
        assert end > covered, "a chunk without new samples"
        np.testing.assert_array_equal(chunk.samples, whole[:, chunk.start : end])
        covered = end
    assert covered == whole.shape[1]


@settings(max_examples=100)
@given(plans(), st.lists(st.integers(0, 300), max_size=12))
def test_a_chunk_waits_for_one_sample_beyond_it_and_no_longer(plan: ChunkPlan, blocks: list[int]) -> None:
    chunker = AudioChunker(plan, 1)
    came = emitted = 0
    for block in blocks:
        came += block
        emitted += len(chunker.push(np.zeros((1, block), np.float32)))
        assert emitted == max(0, math.ceil((came - plan.chunk_samples) / plan.hop))


def test_chunks_keep_their_samples_when_later_blocks_come() -> None:
    chunker = AudioChunker(ChunkPlan(4, 1), 1)
    (first,) = chunker.push(ramp(5))
    chunker.push(-ramp(5))
    np.testing.assert_array_equal(first.samples, [[0, 1, 2, 3]])


def test_a_recording_of_exactly_one_chunk_is_one_last_chunk() -> None:
    chunker = AudioChunker(ChunkPlan(8, 4), 2)
    assert chunker.push(ramp(8, 2)) == []
    (only,) = chunker.finish()
    assert only.last and only.samples.shape == (2, 8)


def test_nothing_in_is_nothing_out() -> None:
    chunker = AudioChunker(ChunkPlan(8, 4), 1)
    assert chunker.push(ramp(0)) == []
    assert chunker.finish() == []


def test_a_recording_ends_once() -> None:
    chunker = AudioChunker(ChunkPlan(8, 4), 1)
    chunker.push(ramp(3))
    assert len(chunker.finish()) == 1
    assert chunker.finish() == []


@pytest.mark.parametrize("shape", [(8,), (1, 8), (3, 8)])
def test_a_block_of_other_channels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MotetError) as caught:
        AudioChunker(ChunkPlan(8, 4), 2).push(np.zeros(shape, np.float32))
    assert caught.value.failure.kind == "invalid"


def test_seconds_become_samples() -> None:
    plan = plan_chunks(10, 3, 16000)
    assert (plan.chunk_samples, plan.overlap_samples, plan.hop) == (160_000, 48_000, 112_000)


@given(st.floats(1e-4, 30), st.floats(0, 0.5), st.sampled_from((8000, 11025, 44100)))
def test_any_overlap_up_to_half_a_chunk_is_taken(chunk: float, part: float, rate: int) -> None:
    if chunk * rate >= 1:
        plan = plan_chunks(chunk, chunk * part, rate)
        assert abs(plan.chunk_samples - chunk * rate) <= 0.5
        assert abs(plan.overlap_samples - chunk * part * rate) <= 1


@pytest.mark.parametrize(
    ("chunk", "overlap", "param"),
    [
        (10, 5.1, "overlap_seconds"),
        (10, -0.1, "overlap_seconds"),
        (10, math.nan, "overlap_seconds"),
        (0, 0, "chunk_seconds"),
        (-1, 0, "chunk_seconds"),
        (1e-5, 0, "chunk_seconds"),
        (math.inf, 1, "chunk_seconds"),
        (math.nan, 1, "chunk_seconds"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(chunk: float, overlap: float, param: str) -> None:
    with pytest.raises(MotetError) as caught:
        plan_chunks(chunk, overlap, 16000)
    assert (caught.value.failure.kind, caught.value.failure.param) == ("invalid", param)
