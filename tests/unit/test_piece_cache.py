"""The cache of pieces is bounded, whatever it holds."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.engines.protocols import AudioChunk
from serve_app.gateway.speech.piece_cache import PieceCache


def piece(samples: int, text: str = "") -> tuple[AudioChunk, ...]:
    return (AudioChunk(np.zeros(samples, np.float32), 8000, 0, text, last=True),)


@pytest.mark.parametrize(
    "kept", [piece(0), piece(0) * 100, piece(0, "a" * 10_000), ()], ids=["one", "many", "text", "none"]
)
def test_pieces_without_sound_are_bounded_too(kept: tuple[AudioChunk, ...]) -> None:
    cache = PieceCache(100_000)
    for number in range(200):
        cache.put(("ada", str(number)), kept)
    found = [number for number in range(200) if cache.get(("ada", str(number))) is not None]
    assert len(found) < 100
    assert found == [] or found[-1] == 199
    assert 0 <= cache.bytes <= 100_000


def test_the_piece_that_was_not_used_for_longest_goes_first() -> None:
    cache = PieceCache(100_000)
    for number in range(3):
        cache.put(("ada", str(number)), piece(8000))
        cache.get(("ada", "0"))
    cache.put(("ada", "3"), piece(8000))
    assert [cache.get(("ada", str(number))) is not None for number in range(4)] == [True, False, False, True]
