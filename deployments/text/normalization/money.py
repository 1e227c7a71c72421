"""Amounts of money in English."""

from __future__ import annotations

import re
from collections.abc import Mapping

from deployments.text.normalization.number_words import AMOUNT, NUMBER, SCALES, cardinal, is_one, spoken_amount

Coins = tuple[str, str, str, str]
"""One and many of a currency, and one and many of its hundredth part, if that is spoken."""
_SIGNS: Mapping[str, Coins] = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "US$": ("US dollar", "US dollars", "cent", "cents"),
    **dict.fromkeys(("A$", "AU$"), ("Australian dollar", "Australian dollars", "cent", "cents")),
    **dict.fromkeys(("C$", "CA$"), ("Canadian dollar", "Canadian dollars", "cent", "cents")),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "", ""),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "₩": ("won", "won", "", ""),
    "₽": ("ruble", "rubles", "kopek", "kopeks"),
    "₿": ("bitcoin", "bitcoins", "", ""),
}
_CODES: Mapping[str, Coins] = {
    "USD": _SIGNS["$"],
    "EUR": _SIGNS["€"],
    "GBP": _SIGNS["£"],
    "JPY": _SIGNS["¥"],
    "INR": _SIGNS["₹"],
    "CHF": ("Swiss franc", "Swiss francs", "centime", "centimes"),
    "CAD": _SIGNS["C$"],
    "AUD": _SIGNS["A$"],
    "BTC": _SIGNS["₿"],
}
_ALL = {**_SIGNS, **_CODES}
_SIGN = "|".join(re.escape(sign) for sign in sorted(_SIGNS, key=len, reverse=True))
_CODE = "|".join(_CODES)
_SCALE = rf"(?:(?:\s(?=[a-z]{{5}})|-(?=[a-z]{{5}}))?({'|'.join(sorted(SCALES, key=len, reverse=True))})\b)?"
_SHORT_SCALES = "k|mn?|bn?|tn?"
_RANGE = rf"(?:{NUMBER})(?:\s?[-–]\s?(?:{_SIGN})?(?:{NUMBER}))?"
_PER = r"(?:\s?/\s?(?=[A-Za-z]))?"
_BEFORE = re.compile(rf"(?<![\w.])([-−+])?(?:({_SIGN})\s?|({_CODE})\s)({_RANGE})(?![\d]){_SCALE}{_PER}", re.I)
_AFTER = re.compile(rf"(?<![\w.,])({AMOUNT}){_SCALE}\s?(?:([€£])|({_CODE})\b){_PER}", re.I)
_ONLY_CENTS = re.compile(r"(?<=[$€£])(?=\.\d\d\b)")
_CENTS = re.compile(rf"(?<![\w.,])({NUMBER})\s?¢")
_SAME_SCALE = re.compile(rf"(?<=\d)({_SHORT_SCALES})(?=\s?[-–]\s?(?:{_SIGN})?(?:{NUMBER})\1\b)")
_SCALED_RANGE = re.compile(rf"(?<=\d)({_SHORT_SCALES})\s?[-–]\s?(?=(?:{_SIGN})\d)")
_COMMA = re.compile(
    r"(?<=[$€£])(\s?\d{1,4}),(?=\d\d(?!\d|,\d|\.\d))|(?<![\w.,])(\d{1,4}),(?=\d\d\s?(?:[€£]|EUR\b|GBP\b))"
)
_DASH = re.compile(r"\s?[-–]\s?")
_COINS = re.compile(r"\.\d\d$")
_HAS_MONEY = re.compile(rf"[$€£¥₹₩₽₿¢]|\b(?:{_CODE})\b", re.I)


def read_money(text: str) -> str:
    """The text with its amounts of money in words."""
    if not _HAS_MONEY.search(text):
        return text
    text = _SCALED_RANGE.sub(r"\1 to ", _SAME_SCALE.sub("", _COMMA.sub(_with_point, text)))
    text = _BEFORE.sub(_before, _ONLY_CENTS.sub("0", text))
    text = _AFTER.sub(_after, text)
    return _CENTS.sub(lambda match: f"{spoken_amount(match[1])} {'cent' if is_one(match[1]) else 'cents'}", text)


def _with_point(match: re.Match[str]) -> str:
    return f"{match[1] or match[2]}."


def _before(match: re.Match[str]) -> str:
    sign, symbol, code, number, scale = match.groups()
    amount = re.sub(rf"(?:{_SIGN})", "", number)
    said = _said(amount, scale, symbol or code)
    if sign:
        said = f"{'plus' if sign == '+' else 'minus'} {said}"
    return f"{said} per " if match[0].rstrip().endswith("/") else said


def _after(match: re.Match[str]) -> str:
    said = _said(match[1], match[2], match[3] or match[4])
    return f"{said} per " if match[0].rstrip().endswith("/") else said


def _said(number: str, scale: str | None, currency: str) -> str:
    one, many, part, parts = _ALL[currency.upper()]
    if scale:
        return f"{spoken_amount(number)} {SCALES[scale.lower()]} {many}"
    parts_of_range = _DASH.split(number)
    if len(parts_of_range) == 2 and part and any(_COINS.search(each) for each in parts_of_range):
        return " to ".join(_said(each, None, currency) for each in parts_of_range)
    whole, point, fraction = number.replace(",", "").partition(".")
    if not (point and len(fraction) == 2 and part and fraction.isdigit()):
        return f"{spoken_amount(number)} {one if is_one(number) else many}"
    coins = f"{cardinal(int(fraction))} {part if fraction == '01' else parts}"
    if int(fraction) == 0:
        return f"{spoken_amount(whole)} {one if is_one(whole) else many}"
    return coins if int(whole) == 0 else f"{spoken_amount(whole)} {one if is_one(whole) else many} and {coins}"
