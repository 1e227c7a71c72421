"""A word of a Markdown text without emphasis, links, tags and escapes."""

from __future__ import annotations

import re

_LINK_TARGET = re.compile(r"\]\((?:[^()\s]|\([^()\s]*\))*(\))?")
_REFERENCE = re.compile(r"\]\[[^\]\s]*\]|\[\^[\w-]+\]:?")
_STARS = re.compile(r"(?<![\d)])\*+(?=\S)|(?<=\S)\*+(?![\w(])")
_UNDERSCORES = re.compile(r"(?:^|(?<=[^\w]))_+(?=\S)|(?<=[^\W_])_+(?=\W*$)|(?<=[^\w\s])_+(?=\W*$)")
_STRIKES = re.compile(r"~~+")
_BRACKETS = re.compile(r"(?:^|(?<=[(\"'“*_]))!?\[|\](?=\W*$)")
_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9]*(?:\s*/)?>|^<(?:a|img|div|span|p|td|th|tr|table|font|br)$|<!--|-->")
_ATTRIBUTE = re.compile(
    r"^(?:href|src|class|style|id|alt|width|height|align|target|rel|title)=(?:\"[^\"]*\"|'[^']*')(?:\s*/?>)?"
)
_AUTOLINK = re.compile(r"^<((?:https?://|mailto:)?[^<>\s]*[.@][^<>\s]*)>(?=\W*$)")
_ESCAPE = re.compile(r"\\([*_#`\[\]|~\\>+.!(){}-])")
_ESCAPED = re.compile("[\ue000-\ue07f]")
_PLAIN = re.compile(r"[\w.,;:!?'’\"“”()%$€£/@+-]*")


def without_signs(word: str) -> tuple[str, bool]:
    """The word, and whether the title of a link follows it."""
    if _PLAIN.fullmatch(word) and "_" not in word:
        return word, False
    word = _ESCAPE.sub(lambda match: chr(0xE000 + ord(match[1])), word)
    opened = False
    for target in _LINK_TARGET.finditer(word):
        opened = target[1] is None and target.end() == len(word)
    word = _REFERENCE.sub("", _LINK_TARGET.sub("", word))
    word = _ATTRIBUTE.sub("", _TAG.sub("", _AUTOLINK.sub(r"\1", word)))
    if not word.strip("*"):
        return word, opened  # a star between spaces is a sign of arithmetic
    word = _BRACKETS.sub("", _STRIKES.sub("", _STARS.sub("", word)))
    word = _BRACKETS.sub("", _UNDERSCORES.sub("", word))
    return _ESCAPED.sub(lambda match: chr(ord(match[0]) - 0xE000), word), opened
