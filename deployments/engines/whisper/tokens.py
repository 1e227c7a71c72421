"""The bytes of Whisper's tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deployments.engines.protocols import Token

LEAST_PROBABILITY = 1e-30
"""So that a probability that rounds to 0 has a finite logarithm."""


def _byte_of_character() -> dict[str, int]:
    """The inverse of GPT-2's table (openai/gpt-2, encoder.py), which gives each byte a printable character."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + number): byte for number, byte in enumerate(others)}


BYTE_OF_CHARACTER = _byte_of_character()


def tokens_of(pieces: Sequence[str], probabilities: Sequence[float]) -> tuple[Token, ...]:
    """The tokens of a text, from their names in the vocabulary and their probabilities."""
    return tuple(_token(piece, probability) for piece, probability in zip(pieces, probabilities, strict=True))


def _token(piece: str, probability: float) -> Token:
    data = bytes(BYTE_OF_CHARACTER[character] for character in piece)
    return Token(data.decode(errors="replace"), math.log(max(probability, LEAST_PROBABILITY)), data)
