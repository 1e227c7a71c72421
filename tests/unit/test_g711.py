"""G.711 against the tables of ITU-T: known codes, and the nearest value for every sample."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.audio import g711


@pytest.mark.parametrize(
    ("law", "known"),
    [
        ("mu", {0x00: -32124, 0x0F: -16764, 0x7F: 0, 0x80: 32124, 0xFF: 0, 0xFE: 8}),
        ("a", {0x2A: -32256, 0xAA: 32256, 0xD5: 8, 0x55: -8}),
    ],
)
def test_known_codes(law: g711.Law, known: dict[int, int]) -> None:
    assert g711.decode(bytes(known), law).tolist() == list(known.values())


@pytest.mark.parametrize("law", ["mu", "a"])
def test_every_sample_gets_the_nearest_code(law: g711.Law) -> None:
    samples = np.arange(-32768, 32768, 7).astype(np.int16)
    values = np.unique(g711.values(law)).astype(int)
    decoded = g711.decode(g711.encode(samples, law), law).astype(int)
    nearest = np.abs(samples.astype(int)[:, None] - values).min(axis=1)
    assert (np.abs(decoded - samples) == nearest).all()
