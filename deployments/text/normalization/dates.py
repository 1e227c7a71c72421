"""Dates, times of day and decades in English."""

from __future__ import annotations

import re
from functools import partial

from deployments.text.normalization.number_words import cardinal, ordinal, plural, year

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_SHORT = {name[:3]: name for name in _MONTHS} | {"Sept": "September"}
_MONTH = rf"({'|'.join(_MONTHS)}|{'|'.join(sorted(_SHORT, key=len, reverse=True))})\b\.?"
_WEEKDAYS = {
    "Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday", "Thurs": "Thursday",
    "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday",
}  # fmt: skip
_DAYS = r"(\d{1,2})(?:st|nd|rd|th)?(?:\s?[-–]\s?(\d{1,2})(?:st|nd|rd|th)?)?"
_YEAR = r"(?:,? (\d{4})\b(?![:.,]?\d))?"

_DISTANCES = {"mi": "mile", "km": "kilometer"}

_ANY_MONTH = re.compile("Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec")
_ANY_TIME = re.compile(r"\d:\d|\d\s?[AaPp]\.?[Mm]")
_ANY_DAY = re.compile(r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)(?:rs|s)?\b")
_ISO = re.compile(r"(?<![\w.-])(\d{4})-(\d\d)-(\d\d)(?![\w-])(?:T(?=\d))?")
_ISO_TIME = re.compile(r"(?<![\w.-])(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(?::\d\d(?:\.\d+)?)?(?:Z|\+00:00)?(?!\w)")
_SLASHES = re.compile(r"(?<![\w./-])(\d{1,2})/(\d{1,2})/(\d{4}|\d\d)(?![\w/])")
_DAY_AND_SLASHES = re.compile(rf"\b({'|'.join(set(_WEEKDAYS.values()))}),? (\d{{1,2}})/(\d{{1,2}})(?![\w/]| of\b)")
_ON_SLASHES = re.compile(r"\b([Oo]n|[Uu]ntil|[Ss]ince|[Dd]ue) (\d{1,2})/(\d{1,2})(?![\w/]|[.,]\d| of\b)")
_USUAL_PARTS = (2, 3, 4, 8, 16)
"""Denominators of what is measured in fractions: "on 1/2 acre"."""
_DASHED_MONTH = re.compile(rf"(?<![\w./-])(\d{{1,2}})-({'|'.join((*_MONTHS, *_SHORT))})-(\d{{4}}|\d\d)(?![\w-])")
_DOTS = re.compile(r"(?<![\w./-])(\d{1,2})\.(\d{1,2})\.(\d{4})(?![\w/]|\.\d)")
_DATES_JOINED = re.compile(
    rf"(\b{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?)\s?[-–]\s?(?={_MONTH} \d)"
    rf"|((?<!\d)\d{{1,2}}(?:st|nd|rd|th)? {_MONTH})\s?[-–]\s?(?=\d{{1,2}}(?:st|nd|rd|th)? {_MONTH})"
)
_MONTH_DAY = re.compile(rf"\b{_MONTH} (?:the )?{_DAYS}(?![\w%]|[.,/:]\d){_YEAR}")
_DAY_MONTH = re.compile(rf"(?<![\w.,:/$€£-])([Tt]he )?{_DAYS} (of )?{_MONTH}(?!\w){_YEAR}")
_MONTH_YEAR = re.compile(rf"\b{_MONTH},? (\d{{4}})\b(?![:.,]?\d)")
_SHORT_DAYS = "|".join(sorted(_WEEKDAYS, key=len, reverse=True))
_WEEKDAY = re.compile(rf"\b({_SHORT_DAYS})\b\.?(?=,? (?:{'|'.join(_MONTHS)}|{'|'.join(_SHORT)}|the |at |\d))")
_WEEKDAY_RANGE = re.compile(rf"\b({_SHORT_DAYS})\b\.?\s?[-–]\s?({_SHORT_DAYS})\b\.?")
_MONTH_POINT = rf"(?:{'|'.join(sorted(set(_SHORT) - {'May'}, key=len, reverse=True))})\."
_MONTHS_NAMED = re.compile(
    r"\b(?:[Ii]n|[Ss]ince|[Uu]ntil|[Tt]ill?|[Dd]uring|[Ee]arly|[Mm]id|[Ll]ate|[Ll]ast|[Nn]ext|[Tt]his|[Ee]very"
    rf"|(?:start|end|beginning|rest) of)[ -]{_MONTH_POINT}"
    rf"(?:(?:,|,? (?:and|or|to|through)|\s?[–-]) ?{_MONTH_POINT}){{0,11}}"
)
_ONE_MONTH = re.compile(rf"({_MONTH_POINT[:-2]})\.")
_DECADE = re.compile(r"(?<![\w.,$€£])(?:(\d\d)(\d0)|['’‘]?(\d0))['’]?s\b")
_SHORT_YEAR = re.compile(r"(?<![\w\"”])['’](\d\d)(?![\w'’\"”])")
_ERA = re.compile(r"(?<![\w.,])(\d{1,4}) ?(BCE|BC|CE|AD)\b|\b(AD) (\d{1,4})\b")

_HALF = r"(?:\s?([AaPp])(?:\.[Mm]\.|[Mm]\b))?"
_CLOCK = re.compile(rf"(?<![\w:.,])(\d{{1,2}}):(\d\d)(?::(\d\d))?{_HALF}(?:\s?(?:h|hrs)\b)?(?![:\d])(?!\w)")
_PACE = re.compile(r"(?<=\d:\d\d)\s?/\s?(mile|mi|km|kilometer|lap)\b")
_DASHED = re.compile(
    r"(\d{1,2}(?::\d\d)?(?:\s?[AaPp]\.?[Mm]\.?)?)\s?[-–—]\s?(?=\d{1,2}(?::\d\d)?\s?[AaPp]\.?[Mm]\b|\d{1,2}:\d\d)"
)
_POINT_CLOCK = re.compile(r"(?<![\w:.,])(\d{1,2})\.(?=[0-5]\d\s?[AaPp]\.?[Mm]\b)")
_HOUR = re.compile(r"(?<![\w:.,])(\d{1,2})\s?([AaPp])(?:\.[Mm]\.|[Mm]\b)")
_YEAR_BEFORE = re.compile(r"(?<![\w.,:/-])(1[1-9]\d\d|20\d\d)[-–](\d\d|\d{4})(?![\w-]|[.,]\d)")


def read_dates(text: str, *, day_first: bool) -> str:
    """The text with its dates and times in words. `day_first` says how 5/6/2024 is read where both are possible."""
    if ":" in text:
        text = _ISO_TIME.sub(r"\1 at \2", text)
        text = _PACE.sub(lambda match: f" per {_DISTANCES.get(match[1], match[1])}", text) if "/" in text else text
    if "-" in text:
        text = _ISO.sub(lambda match: _date(match[0], int(match[3]), int(match[2]), match[1]), text)
        text = _DASHED_MONTH.sub(_dashed_month, text)
        text = _YEAR_BEFORE.sub(_years, text)
    if "–" in text:
        text = _YEAR_BEFORE.sub(_years, text)
    if "/" in text:
        text = _SLASHES.sub(partial(_numeric, day_first=day_first), text)
        text = _DAY_AND_SLASHES.sub(partial(_without_year, day_first=day_first), text)
        text = _ON_SLASHES.sub(partial(_on_day, day_first=day_first), text)
    if "." in text:
        text = _DOTS.sub(partial(_numeric, day_first=True), text)
    if _ANY_MONTH.search(text):
        text = _DATES_JOINED.sub(lambda match: f"{match[1] or match[4]} to ", text)
        text = _DAY_MONTH.sub(_day_month, text)
        text = _MONTH_DAY.sub(_month_day, text)
        text = _MONTH_YEAR.sub(lambda match: f"{_month(match[1])} {year(int(match[2]))}", text)
    text = _DECADE.sub(_decade, text)
    text = _SHORT_YEAR.sub(lambda match: cardinal(int(match[1])), text)
    text = _ERA.sub(_era, text)
    return _times(text) if _ANY_TIME.search(text) else text


def read_short_names(text: str) -> str:
    """The text with its short names of weekdays and months in words, and ranges of weekdays. A month without a day or a year
    beside it is read after such words as "in", because Jan is also a name."""
    if "." in text and _ANY_MONTH.search(text):
        text = _MONTHS_NAMED.sub(_named_months, text)
    if not _ANY_DAY.search(text):
        return text
    text = _WEEKDAY.sub(lambda match: _WEEKDAYS[match[1]], text)
    return _WEEKDAY_RANGE.sub(lambda match: f"{_WEEKDAYS[match[1]]} to {_WEEKDAYS[match[2]]}", text)


def _times(text: str) -> str:
    text = _DASHED.sub(r"\1 to ", _POINT_CLOCK.sub(r"\1:", text))
    text = _CLOCK.sub(_clock, text)
    return _HOUR.sub(lambda match: _hour(match) if 1 <= int(match[1]) <= 12 else match[0], text)


def _named_months(match: re.Match[str]) -> str:
    ends = not match.string[match.end() :].strip(" \"'”’)")
    return _ONE_MONTH.sub(lambda short: _month(short[1]), match[0]) + ("." if ends else "")


def _month(name: str) -> str:
    return _SHORT.get(name, name)


def _date(written: str, day: int, month: int, year_digits: str) -> str:
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return written
    return f"{_MONTHS[month - 1]} {ordinal(day)}, {year(int(year_digits))}"


def _numeric(match: re.Match[str], day_first: bool) -> str:
    first, second, year_digits = int(match[1]), int(match[2]), _four_digits(match[3])
    day, month = (first, second) if first > 12 or (day_first and second <= 12) else (second, first)
    return _date(match[0], day, month, year_digits)


def _dashed_month(match: re.Match[str]) -> str:
    month = _MONTHS.index(_month(match[2])) + 1
    return _date(match[0], int(match[1]), month, _four_digits(match[3]))


def _four_digits(year_digits: str) -> str:
    if len(year_digits) == 4:
        return year_digits
    return f"{'19' if int(year_digits) > 50 else '20'}{year_digits}"


def _without_year(match: re.Match[str], day_first: bool) -> str:
    said = _day_of(match, day_first)
    return f"{match[1]}, {said}" if said else match[0]


def _on_day(match: re.Match[str], day_first: bool) -> str:
    """The day of "on 9/15". A part of something stays: "on 1/2 acre"."""
    part = int(match[2]) < int(match[3]) and int(match[3]) in _USUAL_PARTS
    said = None if part else _day_of(match, day_first)
    return f"{match[1]} {said}" if said else match[0]


def _day_of(match: re.Match[str], day_first: bool) -> str | None:
    first, second = int(match[2]), int(match[3])
    day, month = (first, second) if first > 12 or (day_first and second <= 12) else (second, first)
    return f"{_MONTHS[month - 1]} {ordinal(day)}" if 1 <= month <= 12 and 1 <= day <= 31 else None


def _ordinals(first: str, last: str | None) -> str:
    return ordinal(int(first)) + (f" to {ordinal(int(last))}" if last else "")


def _possible(*days: str | None) -> bool:
    return all(1 <= int(day) <= 31 for day in days if day)


def _month_day(match: re.Match[str]) -> str:
    if not _possible(match[2], match[3]):
        return match[0]
    return f"{_month(match[1])} {_ordinals(match[2], match[3])}" + (f", {year(int(match[4]))}" if match[4] else "")


def _day_month(match: re.Match[str]) -> str:
    first, last, month, year_digits = match[2], match[3], match[5], match[6]
    if not _possible(first, last):
        return match[0]
    said = f"{match[1] or 'the '}{_ordinals(first, last)} of {_month(month)}"
    return said + (f", {year(int(year_digits))}" if year_digits else "")


def _decade(match: re.Match[str]) -> str:
    century, tens, short = match.groups()
    if short:
        return plural(cardinal(int(short))) if short != "00" else match[0]
    if tens == "00":
        return plural(cardinal(int(century) * 100) if int(century) % 10 == 0 else year(int(century) * 100))
    return f"{cardinal(int(century))} {plural(cardinal(int(tens)))}"


def _era(match: re.Match[str]) -> str:
    if match[1]:
        return f"{year(int(match[1]))} {match[2]}"
    return f"AD {year(int(match[4]))}"


def _years(match: re.Match[str]) -> str:
    last = int(match[2])
    return f"{year(int(match[1]))} to {year(last) if last > 99 else cardinal(last)}"


def _clock(match: re.Match[str]) -> str:
    hours, minutes, seconds = int(match[1]), int(match[2]), match[3]
    if hours > 24 or minutes > 59 or int(seconds or 0) > 59:
        return match[0]
    if seconds:
        return _duration(hours, minutes, int(seconds))
    half = _half_day(match[4], match)
    if minutes == 0:
        whole = (
            cardinal(hours)
            if half
            else f"{cardinal(hours)} o'clock"
            if 1 <= hours <= 12
            else f"{cardinal(hours)} hundred"
        )
        return whole + half
    return f"{cardinal(hours)} {'oh ' if minutes < 10 else ''}{cardinal(minutes)}{half}"


def _duration(hours: int, minutes: int, seconds: int) -> str:
    counted = ((hours, "hour"), (minutes, "minute"), (seconds, "second"))
    said = [f"{cardinal(number)} {unit}{'' if number == 1 else 's'}" for number, unit in counted if number]
    return " ".join(said) or "zero seconds"


def _hour(match: re.Match[str]) -> str:
    return cardinal(int(match[1])) + _half_day(match[2], match)


def _half_day(letter: str | None, match: re.Match[str]) -> str:
    """The half of the day, as an abbreviation that models know. Its last point may also end the sentence."""
    if not letter:
        return ""
    ends = match[0].endswith(".") and not match.string[match.end() :].strip(" \"'”’)")
    return f" {letter.upper()}M" + ("." if ends else "")
