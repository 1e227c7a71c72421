"""Numbers in English words, by num2words."""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any

NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
"""A number without a sign: 7, 1,234 or 3.14."""
AMOUNT = rf"(?:{NUMBER})(?:\s?[-–]\s?(?:{NUMBER}))?"
"""A number or a range of two."""
SCALES = {
    "k": "thousand", "m": "million", "mn": "million", "mio": "million", "b": "billion", "bn": "billion",
    "t": "trillion", "tn": "trillion", "thousand": "thousand", "million": "million", "billion": "billion",
    "trillion": "trillion", "hundred": "hundred",
}  # fmt: skip
_MOST_DIGITS = 15
"""Longer numbers are read digit by digit, because listeners cannot follow quadrillions."""
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_RANGE = re.compile(r"\s?[-–]\s?")


@cache
def _converter() -> Any:
    from num2words.lang_EN import Num2Word_EN  # importing it takes 40 ms, so texts without numbers do not

    return Num2Word_EN()


def digits(text: str) -> str:
    """The digits of a text, one by one."""
    return " ".join(_DIGITS[int(digit)] for digit in text if digit in "0123456789")


@lru_cache(4096)
def cardinal(number: int) -> str:
    """A whole number as Americans say it: "one hundred five"."""
    if len(str(abs(number))) > _MOST_DIGITS:
        return digits(str(number))
    return _plain(_converter().to_cardinal(number))


@lru_cache(4096)
def ordinal(number: int) -> str:
    """A place in an order: "twenty-first"."""
    if len(str(number)) > _MOST_DIGITS:
        return digits(str(number))
    return _plain(_converter().to_ordinal(number))


@lru_cache(1024)
def year(number: int) -> str:
    """A year: "nineteen oh five", "two thousand five", "twenty twenty-four"."""
    century, rest = divmod(number, 100)
    if not 1009 < number < 10_000 or (century % 10 == 0 and rest < 10):
        return cardinal(number)
    last = "hundred" if rest == 0 else f"oh {cardinal(rest)}" if rest < 10 else cardinal(rest)
    return f"{cardinal(century)} {last}"


def plural(words: str) -> str:
    """Number words in the plural: "nineties", "hundreds", "sixes"."""
    if words.endswith("y"):
        return f"{words[:-1]}ies"
    return f"{words}es" if words.endswith(("x", "s")) else f"{words}s"


def spoken_number(text: str) -> str:
    """What `NUMBER` matches, in words. Zeros at its front are read."""
    whole, point, fraction = text.replace(",", "").partition(".")
    leading_zero = whole[0] == "0" and len(whole) > 1
    words = digits(whole) if leading_zero else cardinal(int(whole)) if len(whole) <= _MOST_DIGITS else digits(whole)
    return f"{words} point {digits(fraction)}" if point else words


def spoken_amount(text: str) -> str:
    """What `AMOUNT` matches, in words: "five", "five to ten"."""
    return " to ".join(spoken_number(part) for part in _RANGE.split(text.strip()))


def is_one(text: str) -> bool:
    """Whether a unit after this number is in the singular."""
    return text.strip() in ("1", "1.0")


def _plain(words: str) -> str:
    return words.replace(",", "").replace(" and ", " ")
