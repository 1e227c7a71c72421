"""From a piece of text as it is written to what a model reads."""

from __future__ import annotations

import re

from deployments.text.normalization.abbreviations import read_abbreviations, read_directions
from deployments.text.normalization.addresses import AddressReader
from deployments.text.normalization.capitals import read_capitals
from deployments.text.normalization.dates import read_dates, read_short_names
from deployments.text.normalization.emoji_names import read_emoji
from deployments.text.normalization.money import read_money
from deployments.text.normalization.number_words import cardinal
from deployments.text.normalization.phones import read_phones
from deployments.text.normalization.roman import read_roman
from deployments.text.normalization.rules import ReadingRules
from deployments.text.normalization.sign_words import SIGN_WORDS
from deployments.text.normalization.signs import read_signs
from deployments.text.normalization.units import read_units
from deployments.text.normalization.written_numbers import (
    VULGAR,
    read_counted,
    read_numbers,
    with_joined_thousands,
    with_scales,
)

_OTHER_SCRIPTS = frozenset({"ja", "zh", "hi", "ko"})
_LATIN_WORD = re.compile("[A-Za-z]{3}")
_ENGLISH_WORD = re.compile(
    r"\b(?:the|and|you|your|with|this|that|they|from|have|are|what|which|would|it's|been|there)\b", re.I
)
_ENGLISH_WORDS = 2
_DIGIT = re.compile(f"[0-9{VULGAR}]")
_SPACES = re.compile(r"\s+")
_SPACE_BEFORE = re.compile(r" +(?=[,.;:!?)](?:\s|$))|(?<=\() +")
_SPACE_BEFORE_COMMA = re.compile(r" +(?=[,.](?:\s|$))")
_COMMAS = re.compile(r",(?: ?,)+|(?<=[(.;:!?]) ,")


def normalized(text: str, language: str, rules: ReadingRules) -> str:
    """What a model reads for a piece of text, in the language (BCP 47) of the voice.

    All rules are for English. In other languages they read emoji and addresses, in words of that language: no text gets words
    of another language. What is already in words stays as it is. Takes time linear in the length.
    """
    code = _language_of(text, language)
    said = read_emoji(text, code) if rules.emoji else text
    if rules.addresses:
        said = AddressReader(SIGN_WORDS.get(code), english=code == "en").read(said)
    if code == "en":
        said = _english(said, rules, day_first=not language.lower().endswith("-us") and "-" in language)
    if said == text:
        return text
    space = _SPACE_BEFORE if code == "en" else _SPACE_BEFORE_COMMA  # French puts one before "!"
    return _COMMAS.sub(",", space.sub("", _SPACES.sub(" ", said))).strip(" ")


def load_libraries() -> None:
    """Imports the libraries of numbers and emoji, which takes 0.1 s: before the first text rather than in it."""
    cardinal(0)
    read_emoji("\U0001f382", "en")


def _language_of(text: str, language: str) -> str:
    """The language that a text is read in. Voices of another script read a text in Latin letters as English. For a voice of
    an unknown language, such as a clip, the text decides."""
    code = language.lower().partition("-")[0].partition("_")[0]
    if code in _OTHER_SCRIPTS:
        return "en" if text.isascii() and _LATIN_WORD.search(text) else code
    return "en" if code in ("", "und") and _is_english(text) else code


def _is_english(text: str) -> bool:
    """Whether at least two words are frequent in English and in no other language."""
    return text.replace("’", "'").isascii() and len({*map(str.lower, _ENGLISH_WORD.findall(text))}) >= _ENGLISH_WORDS


def _english(text: str, rules: ReadingRules, *, day_first: bool) -> str:
    if rules.dates:
        text = read_short_names(text)
    if _DIGIT.search(text):
        text = _with_digits(text, rules, day_first=day_first)
    if rules.roman:
        text = read_roman(text)
    if rules.abbreviations:
        text = read_abbreviations(text)
    if rules.signs:
        text = read_signs(text)
    if rules.numbers and _DIGIT.search(text):
        text = read_numbers(text)
    return read_capitals(text) if rules.capitals else text


def _with_digits(text: str, rules: ReadingRules, *, day_first: bool) -> str:
    if rules.numbers:
        text = with_scales(with_joined_thousands(text) if " 000" in text else text)
    if rules.phones:
        text = read_phones(text)
    if rules.dates:
        text = read_dates(text, day_first=day_first)
    if rules.money:
        text = read_money(text)
    if rules.abbreviations:
        text = read_directions(text)
    if rules.units:
        text = read_units(text)
    return read_counted(text) if rules.numbers else text
