"""Whether a text is in a script that a voice reads. A voice of English that gets Russian speaks nothing, or noise."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

_OF_LANGUAGES: Mapping[str, frozenset[str]] = {
    "ar": frozenset({"Arabic"}),
    "be": frozenset({"Cyrillic"}),
    "bg": frozenset({"Cyrillic"}),
    "el": frozenset({"Greek"}),
    "fa": frozenset({"Arabic"}),
    "he": frozenset({"Hebrew"}),
    "hi": frozenset({"Devanagari"}),
    "ja": frozenset({"Hiragana", "Katakana", "Han"}),
    "ko": frozenset({"Hangul", "Han"}),
    "mr": frozenset({"Devanagari"}),
    "ru": frozenset({"Cyrillic"}),
    "th": frozenset({"Thai"}),
    "uk": frozenset({"Cyrillic"}),
    "ur": frozenset({"Arabic"}),
    "zh": frozenset({"Han", "Bopomofo"}),
}
"""Scripts of languages besides Latin, which every voice reads. Languages that are not here are written in Latin."""
_ANY_LANGUAGE = ("", "und", "mul")
_LATIN = "Latin"
_NAMES = {"Cjk": "Han", "Halfwidth": "Katakana", "Fullwidth": _LATIN, "Micro": "", "Feminine": "", "Masculine": ""}
"""First words of characters' names that are not the name of their script; empty for signs."""


class ReadableLetters:
    """Counts the letters of a text, and those in a script that its voice does not read."""

    def __init__(self) -> None:
        self.letters = 0
        self.unread: Counter[str] = Counter()
        """By the name of the script."""

    def add(self, text: str, language: str) -> None:
        """A part of the text, spoken in a language (BCP 47). Any voice reads a part of an unknown language."""
        code = language.lower().partition("-")[0].partition("_")[0]
        if text.isascii() or code in _ANY_LANGUAGE:
            self.letters += sum(map(str.isalpha, text))
            return
        known = _OF_LANGUAGES.get(code, frozenset())
        for letter, count in Counter(text).items():
            if letter.isalpha() and (script := _script_of(letter)):
                self.letters += count
                if script != _LATIN and script not in known:
                    self.unread[script] += count

    @property
    def unread_share(self) -> float:
        """The share of letters that cannot be read, 0 to 1."""
        return self.unread.total() / self.letters if self.letters else 0.0

    @property
    def scripts(self) -> str:
        """The scripts that cannot be read, the most frequent first."""
        return ", ".join(script for script, _ in self.unread.most_common())


@lru_cache(maxsize=4096)
def _script_of(letter: str) -> str:
    """The script of a letter; empty for a letter that is used as a sign."""
    first = unicodedata.name(letter, "").partition(" ")[0].partition("-")[0].capitalize()
    return _NAMES.get(first, first)
