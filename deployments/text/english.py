"""English as hibari's grapheme-to-phoneme reads it aloud correctly."""

from __future__ import annotations

import re
from collections.abc import Callable

# What it gets wrong by itself: "no." at the end of a sentence is not "number", "No. 5" is, and a version has more than one
# point. It cannot count beyond quadrillions: longer numbers are read digit by digit.
READINGS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"\b[Nn]o\.\s?(?=\d)"), lambda match: "number "),
    (re.compile(r"\bno\.(?!\w)"), lambda match: "no ."),
    (re.compile(r"\d{16,}"), lambda match: " ".join(match[0])),
    (re.compile(r"\d+(?:\.\d+){2,}"), lambda match: match[0].replace(".", " point ")),
)


def readable(text: str) -> str:
    """The text, rewritten where it would be misread."""
    for pattern, reading in READINGS:
        text = pattern.sub(reading, text)
    return text
