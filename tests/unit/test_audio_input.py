"""The sound of live sessions: encodings, rates, pieces cut anywhere, and the buffer's positions."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from serve_app.gateway.live.audio_input import InputBuffer, InputDecoder, InputEncoding

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    audioop = pytest.importorskip("audioop")


def sine(rate: int, seconds: float = 1.0, frequency: float = 440.0, late_s: float = 0.0) -> Any:
    times = np.arange(int(rate * seconds)) / rate - late_s
    return np.rint(12_000 * np.sin(2 * np.pi * frequency * times)).astype("<i2")


def decoded(encoding: InputEncoding, rate: int, data: bytes, cut: int) -> Any:
    decoder = InputDecoder(encoding, rate)
    pieces = [decoder.push(data[at : at + cut]) for at in range(0, len(data), cut)]
    return np.concatenate([*pieces, decoder.flush()])


@pytest.mark.parametrize("cut", [1, 3, 4801, 100_000])
@pytest.mark.parametrize(("rate", "late_s"), [(16_000, 0.0), (24_000, 0.0001)])
def test_pcm_arrives_at_16_khz_however_it_is_cut(rate: int, late_s: float, cut: int) -> None:
    heard = decoded("audio/pcm", rate, sine(rate, 0.2).tobytes(), cut)
    assert heard.dtype == np.int16
    assert abs(len(heard) - 3200) <= 1
    np.testing.assert_allclose(heard[200:3000], sine(16_000, 0.2, late_s=late_s)[200:3000], atol=60)


HELD: dict[str, tuple[InputEncoding, int, float]] = {
    "16 kHz": ("audio/pcm", 32, 0.0),
    "24 kHz": ("audio/pcm", 48, 10.0),
    "G.711": ("audio/pcmu", 8, 30.0),
}


@pytest.mark.parametrize(("encoding", "bytes_per_ms", "most_ms"), HELD.values(), ids=HELD)
def test_sound_is_held_back_for_the_same_short_time(encoding: InputEncoding, bytes_per_ms: int, most_ms: float) -> None:
    """A turn begins and ends later by it, and an interrupted voice speaks on meanwhile."""
    decoder, given, held = InputDecoder(encoding, 16_000 if bytes_per_ms == 32 else 24_000), 0, list[float]()
    for message in range(1, 51):
        given += len(decoder.push(bytes(40 * bytes_per_ms)))
        held.append(message * 40 - given / 16)
    assert held == [pytest.approx(most_ms, abs=0.1)] * 50


@pytest.mark.parametrize(("encoding", "encode"), [("audio/pcmu", "lin2ulaw"), ("audio/pcma", "lin2alaw")])
def test_g711_arrives_at_16_khz(encoding: InputEncoding, encode: str) -> None:
    heard = decoded(encoding, 24_000, getattr(audioop, encode)(sine(8000).tobytes(), 2), 160)
    assert abs(len(heard) - 16_000) <= 1
    np.testing.assert_allclose(heard[500:15_000], sine(16_000)[500:15_000], atol=600)


def test_a_buffer_keeps_positions_and_at_most_its_size() -> None:
    buffer = InputBuffer(10)
    for start in range(0, 15, 5):
        buffer.push(np.arange(start, start + 5, dtype=np.int16))
    assert (buffer.start, buffer.end) == (5, 15)
    assert list(buffer.since(8)) == list(range(8, 15))
    buffer.drop_before(12)
    assert (buffer.start, list(buffer.since(0))) == (12, [12, 13, 14])
    buffer.drop_before(99)
    assert (buffer.start, buffer.end, len(buffer.since(0))) == (15, 15, 0)
