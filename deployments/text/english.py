"""Rewrites English where hibari's grapheme-to-phoneme conversion would misread it."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

# "no." at the end of a sentence is not "number", but "No. 5" is; a version has more than one point. The converter cannot
# count beyond quadrillions, so longer numbers are read digit by digit.
READINGS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\b[Nn]o\.\s?(?=\d)"), lambda match: "number "),
    (re.compile(r"\bno\.(?!\w)"), lambda match: "no ."),
    (re.compile(r"\d{16,}"), lambda match: " ".join(match[0])),
    (re.compile(r"\d+(?:\.\d+){2,}"), lambda match: match[0].replace(".", " point ")),
    (re.compile(r"\d(?:,?\d){36,}"), lambda match: " ".join(match[0].replace(",", ""))),
)
MOST_PARTS = 24
"""Words, numbers and marks of a run without a space. The converter's time grows with their cube: 24 take 5 ms, and the 250 of
`1-1-1-...` take 3 s, during which it serves no other stream."""
_RUN = re.compile(rf"\S{{{MOST_PARTS + 1},}}")
_PART = re.compile(r"[A-ZÀ-ÖØ-Þ]?[a-zß-öø-ÿ]+|[A-ZÀ-ÖØ-Þ]+|\d+|[^\W\d_A-Za-zÀ-ÿ]+|[-_.]+|.", re.DOTALL)


def readable(text: str) -> str:
    """Rewrites a text."""
    for pattern, reading in READINGS:
        text = pattern.sub(reading, text)
    return _RUN.sub(_in_parts, text)


def _in_parts(run: re.Match[str]) -> str:
    """A run with a space after each `MOST_PARTS` parts."""
    borders = [0, *(part.end() for part in _PART.finditer(run[0]))]
    cuts = [*borders[::MOST_PARTS], len(run[0])]
    return " ".join(run[0][a:b] for a, b in pairwise(cuts) if a < b)
