"""Superscripts and subscripts of a book in plain text: as characters of Unicode, which the rules of reading know."""

from __future__ import annotations

import re

_RAISED = str.maketrans("0123456789+-−n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻ⁿ")
_LOWERED = str.maketrans("0123456789+-−", "₀₁₂₃₄₅₆₇₈₉₊₋₋")
_POWER = re.compile(r"[+\-−]?\d{1,4}|n")
_INDEX = re.compile(r"[+\-−]?\d{1,4}")
_NOTED = re.compile(r"(?:[^\W\d_]{4}|[^\w\s)\]])$")
"""What a note's number follows: a word, which is longer than a unit or a variable, or punctuation."""
_BASE = re.compile(r"[\w)\]]$")


def superscript(text: str, before: str) -> str:
    """A superscript that follows `before`. Numbers become powers; the number of a note, after a word or punctuation, is
    left out; letters, as in 1st, stay."""
    if not _POWER.fullmatch(text.strip()):
        return text
    if text.strip().isdigit() and _NOTED.search(before):
        return ""
    return text.strip().translate(_RAISED) if _BASE.search(before) else text


def subscript(text: str, before: str) -> str:
    """A subscript that follows `before`. Numbers become indices; letters become a word of their own."""
    if _INDEX.fullmatch(text.strip()):
        return text.strip().translate(_LOWERED)
    return f" {text}" if _BASE.search(before) else text
