"""Where sentences end, and how texts are joined in any script."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from unicodedata import category

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


_NOT_FIRST = frozenset("ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヵヶะาำ")
"""Small Japanese syllables and Thai vowels, which belong to the letter before them."""
_NOT_LAST = frozenset("เแโใไ")
"""Thai vowels that belong to the letter after them."""
_STAYS_WITH_BEFORE = ("Mn", "Mc", "Me", "Pe", "Pf", "Po", "Pd", "Lm")
"""Categories of Unicode: accents, closing marks, full stops and commas, and the marks of long or repeated syllables."""


def sentences(text: str) -> list[str]:
    """The sentences of a text, with the spaces after them: joined they are the text."""
    try:
        return list(sentencex.segment("en", text))
    except BaseException as error:
        # A panic in Rust is no `Exception`; one odd text must not take the replica down.
        if type(error).__name__ != "PanicException":
            raise
        return [text]


def pieces(text: str) -> Iterator[tuple[str, bool]]:
    """The words of a text, each with whether it is attached to the one before it. Of a script without spaces, each letter
    with its accents and the marks beside it is a piece: where its words end takes a dictionary."""
    for word in text.split():
        start = 0
        for at in range(1, len(word)):
            if _may_part(word[at - 1], word[at]):
                yield word[start:at], start > 0
                start = at
        yield word[start:], start > 0


def _may_part(before: str, after: str) -> bool:
    return bool(
        (_SPACELESS.match(before) or _SPACELESS.match(after))
        and category(after) not in _STAYS_WITH_BEFORE
        and after not in _NOT_FIRST
        and category(before) not in ("Ps", "Pi")
        and before not in _NOT_LAST
    )


def joined(texts: Iterable[str]) -> str:
    """Texts as one line: with a space between two of them, unless both sides are of a script without spaces."""
    line = ""
    for text in map(str.strip, texts):
        spaceless = line and text and _SPACELESS.match(line[-1]) and _SPACELESS.match(text[0])
        line += text if spaceless or not line or not text else f" {text}"
    return line
