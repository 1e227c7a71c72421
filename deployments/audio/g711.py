"""ITU-T G.711: 8-bit logarithmic samples of telephony, mu-law and A-law."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Law = Literal["mu", "a"]
RATE = 8000
"""Hz."""


def encode(samples: NDArray[np.int16], law: Law) -> bytes:
    """The code of each 16-bit sample (n,): the one with the nearest value."""
    return _codes(law)[samples.astype(np.int32) + 32768].tobytes()


def decode(data: bytes, law: Law) -> NDArray[np.int16]:
    """The 16-bit sample (n,) of each code."""
    decoded: NDArray[np.int16] = values(law)[np.frombuffer(data, np.uint8)]
    return decoded


@cache
def values(law: Law) -> NDArray[np.int16]:
    """The 16-bit value of each of the 256 codes."""
    codes = np.arange(256)
    if law == "mu":
        inverted = ~codes & 0xFF
        exponent, mantissa = inverted >> 4 & 7, inverted & 15
        magnitude = (((mantissa << 3) + 132) << exponent) - 132
        return np.where(inverted & 0x80, -magnitude, magnitude).astype(np.int16)
    toggled = codes ^ 0x55
    exponent, mantissa = toggled >> 4 & 7, toggled & 15
    magnitude = np.where(exponent == 0, (mantissa << 4) + 8, ((mantissa << 4) + 264) << np.maximum(exponent - 1, 0))
    return np.where(toggled & 0x80, magnitude, -magnitude).astype(np.int16)


@cache
def _codes(law: Law) -> NDArray[np.uint8]:
    """The nearest code of every 16-bit sample from -32768 on."""
    known = values(law).astype(np.int32)
    order = np.argsort(known, kind="stable")
    ordered = known[order]
    middles = (ordered[1:] + ordered[:-1]) / 2
    places = np.searchsorted(middles, np.arange(-32768, 32768))
    found: NDArray[np.uint8] = order[places].astype(np.uint8)
    return found
