"""Audio between deployments keeps 16 bits, and a second transfer changes nothing."""

from __future__ import annotations

import numpy as np

from deployments.audio.encode import open_encoder
from deployments.engines.protocols import AudioChunk
from deployments.replica.wire import pack, unpack


def chunk() -> AudioChunk:
    samples = np.random.default_rng(0).uniform(-1.2, 1.2, 5000).astype(np.float32)
    return AudioChunk(samples, 24_000, 3, "Hello.", last=True, finish_reason="length", piece_over=False)


def test_it_is_the_same_sound_to_sixteen_bits() -> None:
    before, after = chunk(), unpack(pack(chunk()))
    np.testing.assert_allclose(after.samples, before.samples.clip(-1, 1), rtol=0, atol=2**-15)
    assert (after.sample_rate, after.index, after.text, after.last) == (24_000, 3, "Hello.", True)
    assert (after.finish_reason, after.piece_over) == ("length", False)


def test_a_second_way_changes_nothing() -> None:
    once = pack(chunk())
    assert pack(unpack(once)) == once


def test_what_leaves_as_pcm_is_what_would_have_left_without_the_way() -> None:
    direct, travelled = chunk(), unpack(pack(chunk()))
    assert open_encoder("pcm", 24_000).encode(direct.samples) == open_encoder("pcm", 24_000).encode(travelled.samples)
