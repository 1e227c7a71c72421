"""Word error rate for the round trip text -> speech -> text, in English.

Both sides are normalised to one notation first, so that only wrong words count. OpenAI's normaliser for Whisper
(whisper-normalizer 0.1.15) measured worse here: on the 20 benchmark texts it counts 19 errors, of which 13 are differences of
notation, such as "7:30" and "7.30" or "4 7 1 9" and "4719"; this module counts 6.

* numbers become digits, and neighbouring numbers one number, because speech does not tell where one of them ends
  ("seven thirty", "7:30" -> 730; "twenty twenty four" -> 2024);
* money, percentages, units and usual short forms are written out, dotted letters lose their dots;
* contractions stay as they are, punctuation and capitals go;
* dates are written day by month, "the 5th of June" as "5 June";
* a place where the two sides differ only in their spaces is not an error ("sea shells", "seashells").
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby

import jiwer


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """Substitutions, deletions and insertions over a number of reference words."""

    words: int
    errors: int

    @property
    def rate(self) -> float:
        """Errors per word; for an empty reference, the number of inserted words."""
        return self.errors / max(self.words, 1)


def word_error_rate(reference: str, heard: str) -> float:
    """The word error rate of one utterance."""
    return errors([reference], [heard]).rate


def errors(references: Sequence[str], heard: Sequence[str]) -> ErrorCount:
    """Words and errors pooled over a set, so that a long utterance weighs more than a short one."""
    words = wrong = 0
    for said, got in zip(references, heard, strict=True):
        left, right = normalise(said), normalise(got)
        words += len(left)
        wrong += _distance(left, right)
    return ErrorCount(words, wrong)


def letter_error_rate(reference: str, heard: str) -> float:
    """Wrong letters per letter of one utterance. A word that is spelled differently ("Posh" for "Push") has few of them, and
    other words have many."""
    left, right = ("".join(normalise(text)) for text in (reference, heard))
    return float(jiwer.cer(left, right)) if left else float(len(right))


def normalise(text: str) -> list[str]:
    """The words of `text` in the notation that this module compares."""
    text = _SAINT.sub("Saint ", unicodedata.normalize("NFKC", text).replace("’", "'"))
    text = _rewrite(text.casefold(), _WRITTEN)
    return _rewrite(" ".join(_with_digits(_WORD.findall(text))), _SPOKEN).split()


def _distance(left: list[str], right: list[str]) -> int:
    if not left:  # jiwer divides by the length of the reference
        return len(right)
    chunks = jiwer.process_words(" ".join(left), " ".join(right)).alignments[0]
    wrong = 0
    for equal, group in groupby(chunks, key=lambda chunk: chunk.type == "equal"):
        differing = list(group)
        said = left[differing[0].ref_start_idx : differing[-1].ref_end_idx]
        got = right[differing[0].hyp_start_idx : differing[-1].hyp_end_idx]
        if not equal and "".join(said) != "".join(got):
            wrong += sum(max(c.ref_end_idx - c.ref_start_idx, c.hyp_end_idx - c.hyp_start_idx) for c in differing)
    return wrong


_WORD = re.compile(r"\d+(?:\.\d+)*|[^\W\d_]+(?:'[^\W\d_]+)*")
_SAINT = re.compile(r"\bSt\.? (?=[A-Z])")


def _numbered(words: str, first: int = 0) -> dict[str, int]:
    return {word: value for value, word in enumerate(words.split(), first)}


_SMALL = _numbered(
    "zero one two three four five six seven eight nine ten"
    " eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
_TENS = {
    word: 10 * tens for word, tens in _numbered("twenty thirty forty fifty sixty seventy eighty ninety", 2).items()
}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
# Without "second", which is a unit of time as often as an ordinal.
_ORDINALS = {"first": "one", "third": "three", "fifth": "five", "eighth": "eight", "ninth": "nine", "twelfth": "twelve"}
_ORDINALS |= {f"{word}th": word for word in (*_SMALL, "hundred", *_SCALES)}
_ORDINALS |= {f"{word[:-1]}ieth": word for word in _TENS}


def _with_digits(words: list[str]) -> list[str]:
    """Writes number words as digits, and the ordinal "fourth" as "4" and "th"."""
    words = [part for word in words for part in ((_ORDINALS[word], "th") if word in _ORDINALS else (word,))]
    written: list[str] = []
    at = 0
    while at < len(words):
        number, end = _read_number(words, at)
        if not number and words[at] in ("oh", "o") and written and written[-1].isdigit() and _below_100(words, at + 1):
            number, end = "0", at + 1
        written.append(number or words[at])
        at = end if number else at + 1
    return written


def _read_number(words: list[str], at: int) -> tuple[str, int]:
    """The number that begins at `at`, in digits, and where it ends; or an empty text."""
    total, ceiling, end = Decimal(0), 10**15, at
    while read := _below_1000(words, end + (end > at and words[end : end + 1] == ["and"])):
        value, after = read
        scale = _SCALES.get(words[after], 0) if after < len(words) else 0
        if max(scale, 0 if scale else value) >= ceiling:
            break
        total += value * (scale or 1)
        ceiling, end = scale, after + bool(scale)
        if not scale:
            break
    if end - at == 1 and words[at][0].isdigit():
        return words[at], end  # as written, with its leading zeros
    return (f"{total.normalize():f}", end) if end > at else ("", at)


def _below_1000(words: list[str], at: int) -> tuple[Decimal, int] | None:
    read = _below_100(words, at)
    if read is None or words[read[1] : read[1] + 1] != ["hundred"]:
        return read
    hundreds, end = read[0] * 100, read[1] + 1
    rest = _below_100(words, end + (words[end : end + 1] == ["and"]))
    if rest is None or rest[0] >= 100 or words[rest[1] : rest[1] + 1] == ["hundred"]:
        return hundreds, end
    return hundreds + rest[0], rest[1]


def _below_100(words: list[str], at: int) -> tuple[Decimal, int] | None:
    """A number up to 99 in words, or any number already in digits."""
    word, following = [*words[at : at + 2], "", ""][:2]
    if re.fullmatch(r"\d+(\.\d+)?", word):
        return Decimal(word), at + 1
    if word == "a" and (following == "hundred" or following in _SCALES):
        return Decimal(1), at + 1
    if word in _TENS:
        ones = _SMALL.get(following, 0)
        return (Decimal(_TENS[word] + ones), at + 2) if 1 <= ones <= 9 else (Decimal(_TENS[word]), at + 1)
    return (Decimal(_SMALL[word]), at + 1) if word in _SMALL else None


_Rules = tuple[tuple[re.Pattern[str], str], ...]


def _rules(*pairs: tuple[str, str]) -> _Rules:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


def _rewrite(text: str, rules: _Rules) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


_MONTHS = tuple(_numbered("january february march april may june july august september october november december"))
_MONTH = f"({'|'.join(_MONTHS)})"
_SHORT_FORMS = {
    "dr": "doctor",
    "mr": "mister",
    "mrs": "missus",
    "prof": "professor",
    "jr": "junior",
    "sr": "senior",
    "vs": "versus",
    "etc": "et cetera",
    "ok": "okay",
    "per cent": "percent",
}
_UNITS = {"km": "kilometer", "kg": "kilogram", "cm": "centimeter", "mm": "millimeter", "mph": "mile per hour"}
_COINS = {"$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "pence")}
_COUNTED = "dollar|euro|pound|cent|mile|kilometer|kilogram|centimeter|millimeter"

# On the text as written, in lower case.
_WRITTEN = _rules(
    (r"(?<=\d),(?=\d{3}(?!\d))", ""),
    *(
        (rf"{re.escape(sign)} ?(\d+(?:\.\d+)?(?: (?:{'|'.join(_SCALES)})\b)?)", rf"\1 {whole} ")
        for sign, (whole, _) in _COINS.items()
    ),
    *((rf"\b(\d+)\.(\d\d) {whole}s?\b", rf"\1 {whole} \2 {part} ") for whole, part in _COINS.values()),
    (r"\b(\d{1,2})(?::00\b|[:.]00(?= ?[ap]\.?m\b))", r"\1 "),
    (r"\b(\d{1,2})(?::(\d\d)\b|\.(\d\d)(?= ?[ap]\.?m\b))", r"\1 \2\3 "),
    (r"\b([a-z])\.(?=[a-z]\b)", r"\1"),
    (r"%", " percent "),
    (r"&", " and "),
    (r"\bno\. ?(?=\d)|#(?=\d)", "number "),
    (r"(?<![\w)])[-−](?=\d)", "minus "),
    (r"° ?c\b", " degrees celsius"),
    (r"° ?f\b", " degrees fahrenheit"),
    (r"°", " degrees"),
    (r"(?<=\w)\.(?=[a-z])", " dot "),
    (r"(?<=\w)@(?=\w)", " at "),
    *((rf"\b{short}\b", long) for short, long in _SHORT_FORMS.items()),
    *((rf"\b{month[:3]}{'t?' if month == 'september' else ''}\b\.? (?=\d)", f"{month} ") for month in _MONTHS),
    (r"(?<=\d)2nd\b", "0 second"),
    (r"\b2nd\b", "second"),
    (r"(?<=\d)(?:st|rd|th)\b", " th"),
    (r"\b(twent|thirt|fort|fift|sixt|sevent|eight|ninet)ies\b", r"\1y s"),
    (r"(?<=met)res?\b", "er"),
)

# On single-spaced words with every number in digits.
_SPOKEN = _rules(
    (rf"\b{_MONTH} (?:the )?(?:(\d)0 )?second\b", r"\1 \g<2>2"),
    (rf"\b{_MONTH} (?:the )?(\d+) th\b", r"\1 \2"),
    (rf"\b(?:the )?(?:(\d)0 )?second of {_MONTH}\b", r"\g<1>2 \2"),
    (rf"\b(?:the )?(\d+) th (?:of )?{_MONTH}\b", r"\1 \2"),
    (r"(?<=\d) th\b", "th"),
    (r"(?<=\d) o'clock\b", ""),
    (r"(?<=\d) ([ap]) m\b", r" \1m"),
    (r"(?<=\d) (?=\d)", ""),
    (r"(?<=\d) point (?=\d)", "."),
    *((rf"(?<=\d ){short}\b", long) for short, long in _UNITS.items()),
    (rf"(?<=\d )({_COUNTED})s\b", r"\1"),
    (r"\b0 (?:dollar|euro|pound) (?=\d+ (?:cent|pence)\b)", ""),
    (r"\b(dollar|euro|pound) and (?=\d+ (?:cent|pence)\b)", r"\1 "),
    (r"\b0+ (?:cent|pence)\b", ""),
    (r"\b0(?=\d (?:cent|pence)\b)", ""),
    (r"(?<!\S)([b-hj-z]) (?=[b-hj-z](?:\s|$))", r"\1"),
)
