"""Telephone numbers, digit by digit in their groups."""

from __future__ import annotations

import re

from deployments.text.normalization.number_words import digits

_END = r"(?![\w-]|[.,]\d)"
_INTERNATIONAL = rf"\+\d{{1,3}}(?:[ .-]?\(\d{{1,4}}\))?(?:[ .-]?\d{{2,5}}){{2,5}}{_END}"
_AREA = rf"\(\d{{2,5}}\) ?\d{{3,4}}[ .-]?\d{{3,4}}{_END}"
_AMERICAN = rf"(?:1[ .-])?\d{{3}}(?:([ .-])\d{{3}}\1|/\d{{3}}-)\d{{4}}{_END}"
_LOCAL = rf"\d{{3}}-\d{{4}}{_END}"
_TRUNK = rf"0\d{{2,4}}[ -]\d{{3,4}}(?:[ -]?\d{{3,4}})?{_END}"
_PHONE = re.compile(rf"(?<![\w.,/+$€£-])(?:{_INTERNATIONAL}|{_AREA}|{_AMERICAN}|{_LOCAL}|{_TRUNK})")
_CHAIN = re.compile(r"(?<![\w.-])\d{1,12}(?:-\d{1,12}){3,8}(?![\w-])")
_SHORT = re.compile(
    r"\b([Cc]all(?:ed|ing)?|[Dd]ial(?:ed|led|ing)?|[Tt]ext|[Pp]hone|[Ee]xt(?:ension|\.)?) (\d{3,6})\b(?![.,]?\d)"
)
_CARD = re.compile(r"(?<![\w.-])\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?![\w-])")
_LONG = re.compile(r"(?:\d\D{0,3}){7}")
_MOST_DIGITS = 15


def read_phones(text: str) -> str:
    """The text with its telephone numbers, and the numbers of cards, in words."""
    if _LONG.search(text):
        text = _CHAIN.sub(_groups, _PHONE.sub(_phone, _CARD.sub(_groups, text)))
    return _SHORT.sub(lambda match: f"{match[1].replace('xt.', 'xtension')} {digits(match[2])}", text)


def _phone(match: re.Match[str]) -> str:
    return match[0] if sum(map(str.isdigit, match[0])) > _MOST_DIGITS else _groups(match)


def _groups(match: re.Match[str]) -> str:
    said = ", ".join(map(digits, re.findall(r"\d+", match[0])))
    return f"plus {said}" if match[0].startswith("+") else said
