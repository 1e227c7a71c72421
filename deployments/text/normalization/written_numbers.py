"""Numbers, ordinals, fractions and ranges in English."""

from __future__ import annotations

import re

from deployments.text.normalization.number_words import (
    AMOUNT,
    NUMBER,
    SCALES,
    cardinal,
    digits,
    ordinal,
    plural,
    spoken_number,
    year,
)

_VULGAR = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5",
    "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8",
}  # fmt: skip
VULGAR = "".join(_VULGAR)
"""Fractions that are one sign."""
_VULGAR_SIGN = re.compile(f"(?<=[0-9])?\\s?([{VULGAR}])")
_MIXED_RANGE = re.compile(
    f"(?<=[{VULGAR}])\\s?[-–]\\s?(?=[\\d{VULGAR}])|(?<=\\d)\\s?[-–]\\s?(?=\\d{{0,3}}\\s?[{VULGAR}])"
)
_FRACTION = re.compile(r"(?<![\w./,])(?:(\d{1,4})[ -])?(\d{1,3})\s?[/⁄]\s?(\d{1,4})(?![\w/]|[.,]\d)(ths?\b)?")
_ALWAYS = re.compile(r"(?<![\w./])24/7(?![\w/]|\.\d)")
_NINE_ELEVEN = re.compile(r"(?<![\w./])9/11(?![\w/]|\.\d)")
_ALIKE = re.compile(r"(?<![\w./])([25]0)/\1(?![\w/]|\.\d)")
_ORDINAL = re.compile(r"(?<![\w.,])(\d{1,3}(?:,\d{3})+|\d+)(?:st|nd|rd|th)\b", re.I)
_RANGE = re.compile(rf"(?<![\w.,:/-])({NUMBER})(?:\s?[–-]\s?|\s—\s)({NUMBER})(?!\w|[.,:/-]\w)")
_RATIO = re.compile(r"(?<![\w:.])(\d{1,4}):(\d{1,4})(?![\w:])")
_SIZE = re.compile(r"(?<![\w.,])(\d+(?:\.\d+)?)\s?[x×]\s?(?=\d)", re.I)
_TIMES = re.compile(r"(?<![\w.,])(\d+(?:\.\d+)?)[x×](?= (?:more|less|as|the)\b| [a-z]+er\b|[.,;:!?)]|$)")
_NEGATIVE = re.compile(r"(?<![\w)\]}.,!?%-])[-−](?=\d)")
_TITLE_NUMBER = re.compile(r"\b([Nn]os?\.|[Nn]º|[Nn]°|№|[Nn]r\.)\s?(?=\d)")
_SHARP = re.compile(r"(?<![\w&])#\s?(?=\d)")
_THOUSANDS = re.compile(r"(?<![\w.,])\d{1,3}(?: 000){1,4}(?![\w ]*\d{3})(?!\w)")
_COUNTED = (
    "people|persons|users|followers|subscribers|members|viewers|views|visitors|visits|readers|listeners|customers|fans|likes"
    "|employees|workers|jobs|homes|houses|households|residents|inhabitants|citizens|voters|votes|men|women|children|adults"
    "|students|patients|cases|deaths|refugees|passengers|troops|copies|downloads|tickets|vehicles|cars|barrels|tons|tonnes"
    "|acres|shares|years|words|tokens|parameters|requests|messages|samples|stars|miles|kilometers|steps|feet|dollars|euros|bucks|lines|rows|items|records"
)
_SCALE = re.compile(
    rf"(?<![\w.,$€£¥₹₩₽₿])({AMOUNT})(?:\s?([bt]n)\b"
    rf"|([kKmMbB])\b(?= (?:(?:more|new|other|active|additional) )?(?:{_COUNTED})\b))"
)
_STATE_CODE = re.compile(r"(?<=\b[A-Z]{2} )\d{5}(?:-\d{4})?\b")
_POINTS = re.compile(
    r"\b([Vv]ersion|Python|Java|Node|iOS|macOS|Android|Ubuntu|CUDA|Debian|Fedora|Windows|Linux|[Rr]elease|[Ss]ection"
    r"|[Cc]hapter|[Ff]igure|[Tt]able|HTTP|TLS|USB|Bluetooth) (\d{1,3}(?:\.\d{1,3})+)(?![\w]|\.\d)"
)
_ITEM = re.compile(r"^(\d{1,3})[.)](?:(?= \S)|(?=[A-Z][a-z]))")
_AGENT = re.compile(r"(?<![\w.])0{1,2}[1-9]\d?(?![\w.,]\d)(?!\w)")
_YEAR = re.compile(r"(?<![\w.,$€£+−-])((?<=\b[Ii]n )10\d\d|1[1-9]\d\d|20\d\d)(?![\w%]|[.,:]\d)")
_JOINED = re.compile(r"(?<=[A-Za-z])-(?=\d)|(?<=\d)-(?=[A-Za-z])")
_MIXED = re.compile(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")
_POINT_AT_LETTER = re.compile(r"(?<=[A-Za-z])\.(?=\d)|(?<=\d)\.(?=[xX]\b)")
_ANY = re.compile(rf"(?<![\d.])({NUMBER})|\.(\d+)(?!\d)")
_CODE = re.compile(
    r"\b(?:[Rr]oom|[Ff]light|[Ss]uite|[Rr]oute|[Bb]us|[Aa]partment|[Cc]ode|PIN|pin|zip|ZIP)( )(\d{3,5})\b(?![.,]\d)"
)
_SAID_FRACTIONS = {2: ("half", "halves"), 4: ("quarter", "quarters")}


def with_joined_thousands(text: str) -> str:
    """The text with numbers such as "1 000 000" in one."""
    return _THOUSANDS.sub(lambda match: match[0].replace(" ", ""), text)


def with_scales(text: str) -> str:
    """The text with "bn" and "tn" in words, and also "k", "m" and "b" before what is counted: "1.2m people"."""
    return _SCALE.sub(lambda match: f"{match[1]} {SCALES[(match[2] or match[3]).lower()]}", text)


def read_counted(text: str) -> str:
    """The text with its fractions, ordinals and numbers after names and signs in words."""
    text = _STATE_CODE.sub(lambda match: digits(match[0]), text)
    text = _fractions(text)
    text = _POINTS.sub(
        lambda match: f"{match[1]} {' point '.join(spoken_number(part) for part in match[2].split('.'))}", text
    )
    text = _ITEM.sub(lambda match: f"{cardinal(int(match[1]))}, ", text)
    text = _TITLE_NUMBER.sub(lambda match: "numbers " if "s" in match[1] else "number ", text)
    text = _SHARP.sub("number ", text)
    text = _ORDINAL.sub(lambda match: ordinal(int(match[1].replace(",", ""))), text)
    return _CODE.sub(lambda match: match[0][: match.start(1) - match.start() + 1] + _in_pairs(match[2]), text)


def read_numbers(text: str) -> str:
    """The text with all of its remaining numbers in words."""
    text = _SIZE.sub(r"\1 by ", text)
    text = _TIMES.sub(r"\1 times", text)
    text = _RANGE.sub(lambda match: f"{_year_or_number(match[1])} to {_year_or_number(match[2])}", text)
    text = _RATIO.sub(_ratio, text)
    return _plain_numbers(text)


def _ratio(match: re.Match[str]) -> str:
    """A ratio; or minutes and seconds, of which a zero before the seconds is the sign."""
    first, second = match[1], match[2]
    if len(second) == 2 and second[0] == "0":
        return f"{spoken_number(first)} " + ("minutes" if second == "00" else f"oh {cardinal(int(second))}")
    return f"{spoken_number(first)} to {spoken_number(second)}"


def _plain_numbers(text: str) -> str:
    text = _NEGATIVE.sub("minus ", text)
    text = _YEAR.sub(lambda match: year(int(match[1])), text)
    text = _AGENT.sub(lambda match: digits(match[0]), text)
    text = _POINT_AT_LETTER.sub(" point ", text)
    text = _MIXED.sub(" ", _JOINED.sub(" ", text))
    return _ANY.sub(lambda match: spoken_number(match[1]) if match[1] else f"point {digits(match[2])}", text)


def _fractions(text: str) -> str:
    text = _ALWAYS.sub("twenty-four seven", text)
    text = _NINE_ELEVEN.sub("nine eleven", text)
    text = _ALIKE.sub(lambda match: f"{cardinal(int(match[1]))} {cardinal(int(match[1]))}", text)
    if not text.isascii():
        text = _MIXED_RANGE.sub(" to ", text)
        text = _VULGAR_SIGN.sub(lambda match: f" {_VULGAR[match[1]]}", text).lstrip()
    return _FRACTION.sub(_fraction, text)


def _fraction(match: re.Match[str]) -> str:
    whole, top, bottom = match[1], int(match[2]), int(match[3])
    if bottom < 2 or bottom > 1000 or (whole and top >= bottom):
        said = f"{cardinal(top)} over {cardinal(bottom)}"
        return f"{spoken_number(whole)} {said}" if whole else said
    if whole:
        return f"{spoken_number(whole)} and {_part(top, bottom, 'a')}"
    if top == bottom or (top < bottom and bottom in (10, 100) and not match.string.startswith(" of ", match.end())):
        return f"{cardinal(top)} out of {cardinal(bottom)}"
    if (top > bottom and bottom > 16) or (bottom > 20 and bottom % 10):
        return (
            f"{cardinal(top)} out of {cardinal(bottom)}"
            if top <= bottom
            else f"{cardinal(top)} over {cardinal(bottom)}"
        )
    return _part(top, bottom, "one")


def _part(top: int, bottom: int, one: str) -> str:
    singular, many = _SAID_FRACTIONS.get(bottom) or (ordinal(bottom), plural(ordinal(bottom)))
    if top == 1:
        return f"{'an' if one == 'a' and singular.startswith('eigh') else one} {singular}"
    return f"{cardinal(top)} {many}"


def _year_or_number(number: str) -> str:
    return year(int(number)) if re.fullmatch(r"1[1-9]\d\d|20\d\d", number) else spoken_number(number)


def _in_pairs(number: str) -> str:
    """The number of a room: "one oh one", "twelve oh four"; a code of five digits, digit by digit."""
    if len(number) > 4 or number.endswith("00") or number[0] == "0":
        return digits(number) if len(number) > 4 or number[0] == "0" else cardinal(int(number))
    first, last = int(number[:-2]), number[-2:]
    return f"{cardinal(first)} {'oh ' if last[0] == '0' else ''}{cardinal(int(last))}"
