"""How long a text is when it is spoken, before anything is known of the voice.

The unit is the time of one letter of English prose: about 1/15 s. Counting characters alone would take "1984" for a short
word and one Chinese character for a letter.
"""

from __future__ import annotations

import re
import unicodedata

from deployments.text.phonemes import without_pronunciations

DIGIT = 4.5
"""Letters of a digit: "twenty twenty-four" has 16 for four digits, "seven" five."""
SIGN = 6.0
"""Letters of a sign that is said, such as % or +."""
WIDE = 4.0
"""Letters of an ideograph: about two morae."""
KANA = 2.0
"""Letters of a mora."""
CAPITAL = 2.5
"""Letters of a capital in a short word of capitals, which is often spelled."""
SHORT_PAUSE, LONG_PAUSE = 3.0, 6.0
"""Letters of the pause at a comma, and at the end of a sentence."""

_SPELLED = re.compile(r"\b[A-Z]{2,5}\b")
_SIGNS = "%&+=@#$€£¥°*/\\<>~^|§©®×÷"
_SHORT = ",;:–—()、，；："
_LONG = ".!?…。！？"
_SILENT = _SHORT + _LONG + "\"'“”‘’ \n\t"
"""At its ends a text takes no time for these."""


def spoken_letters(text: str) -> float:
    """About as many letters of English prose as the text takes to say."""
    text = without_pronunciations(text).strip(_SILENT)
    spelled = 0 if text.isupper() and " " in text else sum(map(len, _SPELLED.findall(text)))
    return sum(map(_letters, text)) + spelled * (CAPITAL - 1)


def _letters(character: str) -> float:
    if character.isascii() and character.isalpha():
        return 1.0
    if character in _SHORT:
        return SHORT_PAUSE
    if character in _LONG:
        return LONG_PAUSE
    if character in _SIGNS:
        return SIGN
    if character.isnumeric() and character.isdigit():
        return DIGIT
    if unicodedata.east_asian_width(character) in ("W", "F"):
        return KANA if "\u3040" <= character <= "\u30ff" else WIDE
    return 1.0 if character.isalpha() or character == " " else 0.0
