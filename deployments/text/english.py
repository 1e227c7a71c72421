"""Rewrites English where hibari's grapheme-to-phoneme conversion would misread it."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

from deployments.text.phonemes import read_around

# The converter takes "no." at the end of a sentence for "number", and cannot count beyond quadrillions.
READINGS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\bno\.(?!\s?\w)"), lambda match: "no ."),
    (re.compile(r"\d{16,}"), lambda match: " ".join(match[0])),
    (re.compile(r"\d(?:,?\d){36,}"), lambda match: " ".join(match[0].replace(",", ""))),
)
MOST_PARTS = 24
"""Words, numbers and marks of a run without a space. The converter's time grows with their cube: 24 take 5 ms, and the 250 of
`1-1-1-...` take 3 s, during which it serves no other stream."""
_RUN = re.compile(rf"\S{{{MOST_PARTS + 1},}}")
_PART = re.compile(r"[A-ZÀ-ÖØ-Þ]?[a-zß-öø-ÿ]+|[A-ZÀ-ÖØ-Þ]+|\d+|[^\W\d_A-Za-zÀ-ÿ]+|[-_.]+|.", re.DOTALL)


def readable(text: str, *, british: bool = False) -> str:
    """Rewrites a text. Pronunciations in it (`phonemes.py`) get the converter's alphabet, of its British variant if asked."""
    return read_around(text, _readable, british=british)


def _readable(text: str) -> str:
    for pattern, reading in READINGS:
        text = pattern.sub(reading, text)
    return _RUN.sub(_in_parts, text)


def _in_parts(run: re.Match[str]) -> str:
    """A run with a space after each `MOST_PARTS` parts."""
    borders = [0, *(part.end() for part in _PART.finditer(run[0]))]
    cuts = [*borders[::MOST_PARTS], len(run[0])]
    return " ".join(run[0][a:b] for a, b in pairwise(cuts) if a < b)
