"""Reads Markdown as text, whole or while it is written.

A parser such as markdown-it needs the whole text, and takes the signs of `2*3*4` for emphasis. This reader decides about
each word when its end is known, so the text does not depend on how it arrives. Headings, items, rows and lines without
punctuation become phrases of their own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import unescape

from deployments.text.normalization.rules import ReadingRules
from deployments.text.normalization.words_in_markdown import without_signs

_HEADING = re.compile(r"^#{1,6}$")
_ITEM = re.compile(r"^[-*+•◦▪‣–—]$")
_NUMBERED = re.compile(r"^\d{1,3}[.)]$")
_QUOTE = re.compile(r"^>+")
_RULER = re.compile(r"^(?:-{3,}|\*{3,}|_{3,}|={3,})$")
_FENCE = re.compile(r"^(?:`{3,}|~{3,})\S*$")
_TASK = re.compile(r"^\[[ xX]?\]?$|^\]$")
_DEFINITION = re.compile(r"^\[[^\]\s]{1,100}\]:$")
_CELL_RULER = re.compile(r"^:?-+:?$")
_SAFE = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_TOKEN = re.compile(r"\s+|\S+")
_MOST_HELD = 200
"""Characters of a word that are held back at most until its end is known."""
_WRAPPED = 60
"""Characters of a line that goes on in the next one, although it may end without punctuation."""
_MAY_BE_WRAPPED = 30
"""From here on, a line goes on if the next one begins with a small letter."""
_TINY = 25
"""Shorter lines follow each other after a comma: alone, they would sound clipped."""
_FIRST_SPACELESS = "\u2e80"
"""From this character on, scripts have their own commas."""
_MOST_TITLE_WORDS = 12


@dataclass(slots=True)
class _Line:
    """What has been read of a line. `kind` is the sign at its start."""

    kind: str = ""
    length: int = 0
    last: str = ""
    dropped: bool = False
    closed: bool = False
    """Whether a mark between this cell and the next one is due."""


class MarkdownReader:
    """Takes a text in parts and returns it without the signs of Markdown. Each rule of `rules` may be off."""

    def __init__(self, rules: ReadingRules) -> None:
        self._markdown, self._lines = rules.markdown, rules.lines
        self._held = ""
        self._sent = 0  # characters of the held word that have been returned
        self._space = ""
        self._breaks = 0
        self._line, self._before = _Line(), _Line()
        self._in_fence = self._in_code = False
        self._title_words = 0  # that may follow the target of a link

    def write(self, text: str) -> str:
        """What can be read now."""
        if not (self._markdown or self._lines):
            return text
        tokens = _TOKEN.findall(self._held + text)
        self._held = ""
        if tokens and not tokens[-1].isspace() and len(tokens[-1]) <= _MOST_HELD:
            self._held = tokens.pop()
        said = [self._token(token) for token in tokens]
        return "".join([*said, self._begun_word()])

    def finish(self) -> str:
        """The rest of the text so far, with a space at its end if one is there. More may be written afterwards."""
        rest, self._held = self._held, ""
        said = self._word(rest) if rest else ""
        space, self._space = self._space, ""
        return said + (" " if space or self._breaks else "")

    def _token(self, token: str) -> str:
        if not token.isspace():
            return self._word(token)
        breaks = token.count("\n") or token.count("\r")
        if breaks:
            self._end_line(breaks)
        elif self._line.length:
            self._space = " "
        return ""

    def _end_line(self, breaks: int) -> None:
        self._breaks += breaks
        if self._line.length:
            self._before = self._line
        self._line = _Line()
        self._space = ""
        self._in_code = False

    def _begun_word(self) -> str:
        """The letters at the start of the held word, which no later sign changes."""
        safe = _SAFE.match(self._held) if self._line.length and not self._title_words else None
        if not safe or self._line.kind == "row" or safe.end() <= self._sent:
            return ""
        begun, self._sent = self._held[self._sent : safe.end()], safe.end()
        return self._emitted(begun)

    def _word(self, word: str) -> str:
        sent, self._sent = self._sent, 0
        plain = word.isalnum() and self._line.length and self._line.kind != "row"
        if not self._markdown or (plain and not (self._title_words or self._line.dropped)):
            return self._emitted(word[sent:])
        if not sent and (self._is_dropped(word) or (not self._line.length and self._is_sign(word))):
            return ""
        if self._line.kind == "row":
            return self._cells(word)
        return self._emitted(self._plain(word)[sent:])

    def _is_dropped(self, word: str) -> bool:
        """Whether the word belongs to something that is not read aloud, such as the title of a link."""
        if self._title_words:
            self._title_words = 0 if word.rstrip(".,;:!?").endswith(")") else self._title_words - 1
            return True
        return self._line.dropped or (self._line.kind == "heading" and set(word) == {"#"})

    def _is_sign(self, word: str) -> bool:
        """Whether a word at the start of a line only says how the line looks. Notes what it says."""
        line = self._line
        if _FENCE.match(word):
            self._in_fence = not self._in_fence
            line.dropped = True
        elif self._in_fence:
            return False
        elif _RULER.match(word) or _DEFINITION.match(word):
            line.dropped = True
            self._breaks += 1
        elif _HEADING.match(word):
            line.kind = "heading"
        elif _ITEM.match(word):
            line.kind = "item"
        elif line.kind == "item" and _TASK.match(word):
            return True
        elif _QUOTE.match(word) and not word.strip(">"):
            line.kind = line.kind or "quote"
        elif word.startswith("|"):
            line.kind = "row"
            return False
        else:
            line.kind = "numbered" if _NUMBERED.match(word) else line.kind
            return False
        return True

    def _cells(self, word: str) -> str:
        """A word of a table: bars are commas between cells."""
        said = []
        for number, part in enumerate(word.split("|")):
            self._line.closed = self._line.closed or (number > 0 and self._line.length > 0)
            if part and not _CELL_RULER.match(part):
                if self._line.closed:
                    self._space, self._line.closed = ", ", False
                said.append(self._emitted(self._plain(part)))
        return "".join(said)

    def _plain(self, word: str) -> str:
        if self._in_fence:
            return word
        if not self._line.length:
            word = _QUOTE.sub("", word) or word
        ticks = word.count("`")
        if ticks or self._in_code:
            self._in_code ^= ticks % 2 == 1
            return word.replace("`", "")
        plain, opened = without_signs(word)
        self._title_words = _MOST_TITLE_WORDS if opened else 0
        return unescape(plain) if "&" in plain and ";" in plain else plain

    def _emitted(self, plain: str) -> str:
        if not plain:
            return ""
        said = (self._separator(plain[0]) if self._breaks else self._space) + plain
        self._space, self._breaks = "", 0
        self._line.length += len(said)
        self._line.last = plain[-1]
        return said

    def _separator(self, first: str) -> str:
        """What stands between the line before and one that begins with `first`."""
        before = self._before
        if not before.length:
            return ""
        if self._breaks > 1 or before.kind == "heading" or "numbered" in (before.kind, self._line.kind):
            return "\n\n"
        own = before.kind in ("item", "row") or self._line.kind in ("heading", "item", "row")
        if not self._lines or not (before.last.isalnum() or before.last in "\"')”’»%°"):
            return "\n"
        wrapped = before.length >= _WRAPPED or (before.length >= _MAY_BE_WRAPPED and first.islower())
        if wrapped and not own:
            return "\n"
        comma = before.length < _TINY and before.kind != "row" and before.last < _FIRST_SPACELESS
        return ",\n" if comma and self._line.kind != "heading" else "\n\n"
