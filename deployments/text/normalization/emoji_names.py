"""Emoji by their names, from the library `emoji` (Unicode's names, in 14 languages)."""

from __future__ import annotations

import re
from functools import lru_cache

_EMOJI = re.compile(
    "[\u203c\u2049\u2122\u2139\u2194-\u21aa\u231a-\u23ff\u24c2\u25aa-\u25fe\u2600-\u27bf\u2934\u2935\u2b05-\u2b55\u3030\u303d"
    "\u3297\u3299\U0001f000-\U0001faff\ufe0f\u200d\u20e3\U000e0020-\U000e007f]"
)
_RUN = re.compile(rf"(?:[0-9#*]\ufe0f?\u20e3|{_EMOJI.pattern})+")
_SMILEY = re.compile(r"(?<=\s)(?:[:;]-?[()DPp]|<3|\^\^)(?=[\s.,!?]|$)")
"""Emoticons made of punctuation, which are not read aloud."""
_KEPT = frozenset("™©®✓✔→←↔")
"""Signs with an own reading, which the library takes for emoji."""
_LANGUAGES = frozenset({"en", "es", "ja", "ko", "pt", "it", "fr", "de", "fa", "id", "zh", "ru", "tr", "ar"})
_SKIN = re.compile(r"[\U0001f3fb-\U0001f3ff]")
_SHORTER = {
    "face with tears of joy": "tears of joy",
    "red heart": "heart",
    "globe showing Europe Africa": "globe",
    "globe showing Americas": "globe",
    "globe showing Asia Australia": "globe",
    "beaming face with smiling eyes": "beaming face",
    "smiling face with smiling eyes": "smiling face",
    "smiling face with heart eyes": "heart eyes",
    "grinning face with smiling eyes": "grinning face",
}


def read_emoji(text: str, language: str) -> str:
    """The text with each emoji as its name between commas. They are left out in a language without names."""
    text = _SMILEY.sub("", text)
    if text.isascii() or not _EMOJI.search(text):
        return text
    return _RUN.sub(lambda match: _names(match, language), text)


def _names(run: re.Match[str], language: str) -> str:
    if not _SKIN.sub("", run[0]).strip("".join(_KEPT) + "\ufe0f"):
        return run[0]
    names = _names_of(run[0], language) if language in _LANGUAGES else ()
    said = ", ".join(dict.fromkeys(names))
    before = run.string[: run.start()].rstrip()[-1:]
    after = run.string[run.end() :].lstrip()[:1]
    begin = ", " if said and before and before not in ",.;:!?(" else " "
    end = ", " if said and after.isalnum() else " " if after.isalnum() else ""
    return f"{begin if before else ''}{said}{end}"


@lru_cache(1024)
def _names_of(run: str, language: str) -> tuple[str, ...]:
    import emoji  # importing it takes 60 ms, so texts without emoji do not

    names = []
    for found in emoji.emoji_list(_SKIN.sub("", run)):
        name = emoji.demojize(found["emoji"], language=language, delimiters=("", ""))
        words = name.replace("_", " ").replace("-", " ").replace("’", "'")
        if language == "en":
            words = _SHORTER.get(words, words)
        if any(map(str.isalpha, words)):
            names.append(words)
    return tuple(names)
