"""Where sentences end, and how texts are joined in any script."""

from __future__ import annotations

import re
from collections.abc import Iterable

import sentencex

_SPACELESS = re.compile(
    "["
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u2e80-\u2fdf\u3000-\u30ff\u31f0-\u31ff"  # radicals, East Asian punctuation, Japanese syllables
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
    "\uff00-\uff60\uff65-\uff9f"  # full-width punctuation and half-width katakana
    "]"
)
"""Characters of scripts that put no space between words."""


def sentences(text: str) -> list[str]:
    """The sentences of a text, with the spaces after them: joined they are the text."""
    try:
        return list(sentencex.segment("en", text))
    except BaseException as error:
        # A panic in Rust is no `Exception`; one odd text must not take the replica down.
        if type(error).__name__ != "PanicException":
            raise
        return [text]


def joined(texts: Iterable[str]) -> str:
    """Texts as one line: with a space between two of them, unless both sides are of a script without spaces."""
    line = ""
    for text in map(str.strip, texts):
        spaceless = line and text and _SPACELESS.match(line[-1]) and _SPACELESS.match(text[0])
        line += text if spaceless or not line or not text else f" {text}"
    return line
