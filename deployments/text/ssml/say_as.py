"""How `<say-as>` reads words, by its `interpret-as`. In English; other languages only spell."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from deployments.text.normalization.dates import read_dates
from deployments.text.normalization.money import read_money
from deployments.text.normalization.number_words import cardinal, digits, ordinal, spoken_number, year
from deployments.text.normalization.phones import read_phones
from deployments.text.normalization.units import read_units
from deployments.text.normalization.written_numbers import read_counted, read_numbers

_NUMBER = re.compile(r"([+−-]?)((?:\d{1,15}|\d{1,3}(?:,\d{3}){1,4})(?:\.\d{1,15})?)", re.ASCII)
_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_DATE_FIELDS = re.compile("[dmy]{1,3}")

SayAs = Callable[[str, str, str], str | None]
"""From words, the `format` of the element and the language of the voice to what is spoken. None for words of another kind:
they are read like any other."""


def is_english(language: str) -> bool:
    """Whether a language is English, or that of a clip, which is not known."""
    return re.split("[-_]", language.lower())[0] in ("en", "und")


def _characters(words: str, form: str, language: str) -> str | None:
    """Letters and digits one by one. Commas keep a model from reading a single "a" as the article."""
    signs = [sign.upper() for sign in words if sign.isalnum()]
    said = [digits(sign) or sign if is_english(language) else sign for sign in signs]
    return ", ".join(said) or None


def _number(words: str, form: str, language: str) -> str | None:
    if not (found := _NUMBER.fullmatch(words.replace(" ", ""))):
        return None
    return ("minus " if found[1] in ("-", "−") else "") + spoken_number(found[2])


def _ordinal(words: str, form: str, language: str) -> str | None:
    plain = re.sub(r"(?:,|(?<=\d)(?:st|nd|rd|th)$)", "", words)
    return ordinal(int(plain)) if re.fullmatch(r"\d{1,15}", plain, re.ASCII) else None


def _digits(words: str, form: str, language: str) -> str | None:
    return ", ".join(filter(None, map(digits, re.findall(r"\d+", words, re.ASCII)))) or None


def _fraction(words: str, form: str, language: str) -> str | None:
    return read_numbers(read_counted(words.replace("+", " ")))


def _unit(words: str, form: str, language: str) -> str | None:
    return read_numbers(read_units(words))


def _currency(words: str, form: str, language: str) -> str | None:
    return read_numbers(read_money(words))


def _date(words: str, form: str, language: str) -> str | None:
    if not _DATE_FIELDS.fullmatch(form):
        return read_numbers(read_dates(words, day_first=not language.lower().endswith("us")))
    parts = re.findall(r"\d+", words, re.ASCII)
    if len(parts) == 1 and len(parts[0]) in (6, 8):  # 19991231
        parts = _divided(parts[0], form)
    if len(parts) != len(form):
        return read_numbers(read_dates(words, day_first=form.find("d") < form.find("m")))
    fields = dict(zip(form, map(int, parts), strict=True))
    if not (1 <= fields.get("m", 1) <= 12 and 1 <= fields.get("d", 1) <= 31 and fields.get("y", 0) < 10_000):
        return None
    return _spoken_date(fields)


def _divided(date: str, form: str) -> list[str]:
    parts, at = [], 0
    for field in form:
        length = len(date) - 4 if field == "y" else 2
        parts.append(date[at : at + length])
        at += length
    return [part for part in parts if part]


def _spoken_date(fields: Mapping[str, int]) -> str:
    month = _MONTHS[fields["m"] - 1] if "m" in fields else ""
    day = ordinal(fields["d"]) if "d" in fields else ""
    said = " ".join(filter(None, (month, day)))
    if "y" not in fields:
        return said
    named = cardinal(fields["y"]) if fields["y"] < 1000 else year(fields["y"])
    return f"{said}{', ' if day else ' ' if said else ''}{named}"


def _time(words: str, form: str, language: str) -> str | None:
    return read_numbers(read_dates(words, day_first=False))


def _telephone(words: str, form: str, language: str) -> str | None:
    said = read_phones(words)
    if said != words:
        return said
    numbers = _digits(words, form, language)
    return f"plus {numbers}" if numbers and words.startswith("+") else numbers


def _expletive(words: str, form: str, language: str) -> str | None:
    return "beep"


def _in_english(read: SayAs) -> SayAs:
    return lambda words, form, language: read(words.strip(), form, language) if is_english(language) else None


SAY_AS: Mapping[str, SayAs] = {
    **dict.fromkeys(("characters", "spell-out", "verbatim"), _characters),
    **dict.fromkeys(("cardinal", "number"), _in_english(_number)),
    "ordinal": _in_english(_ordinal),
    "digits": _in_english(_digits),
    "fraction": _in_english(_fraction),
    "unit": _in_english(_unit),
    "currency": _in_english(_currency),
    "date": _in_english(_date),
    "time": _in_english(_time),
    **dict.fromkeys(("telephone", "phone"), _in_english(_telephone)),
    **dict.fromkeys(("expletive", "bleep"), _expletive),
}
