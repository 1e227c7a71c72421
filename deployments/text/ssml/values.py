"""The values of SSML's attributes: https://www.w3.org/TR/speech-synthesis11/."""

from __future__ import annotations

import re
from collections.abc import Mapping

from deployments.errors import MotetError, fail, quoted

RATES: Mapping[str, float] = {
    "x-slow": 0.5, "slow": 0.75, "medium": 1.0, "default": 1.0, "fast": 1.25, "x-fast": 1.6,
}  # fmt: skip
EMPHASES: Mapping[str, float] = {"strong": 0.8, "moderate": 0.9, "none": 1.0, "reduced": 1.1}
"""The speed of emphasised words. No model here takes more than the words and their speed."""
STRENGTHS_S: Mapping[str, float] = {
    "none": 0.0, "x-weak": 0.1, "weak": 0.2, "medium": 0.4, "strong": 0.7, "x-strong": 1.2,
}  # fmt: skip
PARAGRAPH_PAUSE_S = 0.4
SLOWEST_RATE, FASTEST_RATE = 0.2, 5.0
MAX_BREAK_S = 10.0

_TIME = re.compile(r"\+?(\d{0,7}(?:\.\d{1,6})?)\s*(ms|s)", re.ASCII)
_RATE = re.compile(r"([+-]?)(\d{0,4}(?:\.\d{1,4})?)(%?)", re.ASCII)


def invalid(cause: str, remedy: str) -> MotetError:
    """The error for a document that cannot be read."""
    return fail("invalid", cause, remedy, param="input", code="invalid_ssml")


def one_of(value: str, known: Mapping[str, float], place: str) -> float:
    """The meaning of a word. Raises `MotetError` (invalid) for any other."""
    if value not in known:
        raise invalid(f"{place} is {quoted(value)}.", f"Use one of: {', '.join(known)}.")
    return known[value]


def break_s(time: str | None, strength: str | None) -> float:
    """The seconds of a `<break>`. `time` comes first; without both it is medium."""
    if time is None:
        return one_of(strength or "medium", STRENGTHS_S, "strength of <break>")
    found = _TIME.fullmatch(time.strip())
    if not found or found[1] in ("", "."):
        raise invalid(f"time of <break> is {quoted(time)}.", "Write a time such as 500ms or 1.5s.")
    seconds = float(found[1]) / (1000 if found[2] == "ms" else 1)
    if seconds > MAX_BREAK_S:
        raise invalid(f"A <break> has {seconds:g} s; it may have {MAX_BREAK_S:g}.", "Use a shorter one.")
    return seconds


def rate(value: str) -> float:
    """The factor of a rate: a word, a percentage (`80%`), a change (`+20%`) or a factor (`1.2`)."""
    value = value.strip()
    if value in RATES:
        return RATES[value]
    found = _RATE.fullmatch(value)
    if not found or not found[2]:
        raise invalid(
            f"rate of <prosody> is {quoted(value)}.", f"Use one of {', '.join(RATES)}, or such as 90% or +10%."
        )
    factor = float(found[2]) / (100 if found[3] else 1)
    if found[1]:
        factor = 1 + factor if found[1] == "+" else 1 - factor
    if not SLOWEST_RATE <= factor <= FASTEST_RATE:
        cause = f"rate of <prosody> is {quoted(value)}, a factor of {factor:g}."
        raise invalid(cause, f"It may be {SLOWEST_RATE:.0%} to {FASTEST_RATE:.0%}.")
    return factor
