"""Cuts text into pieces that a voice can speak one after the other, whether it is whole or still being written.

`sentencex` finds the borders of sentences. This module cuts long sentences at clauses, joins tiny ones to their neighbours,
makes the first piece short, and bounds the work for any input. Each decision depends on a bounded number of characters
ahead. It is made as soon as they are there, so the pieces do not depend on how the text arrived.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from itertools import accumulate
from unicodedata import category, combining

from deployments.settings import PieceSettings
from deployments.text.sentences import sentences

_TINY = 12  # characters; shorter pieces are spoken with a clipped, final intonation
_AHEAD = 16  # characters after a place that decide whether it is a border: "September", "trillion", a tiny rest
_REACH = 4  # times the longest piece: as much is searched for a border, since some quotes make sentencex quadratic

_MOST_HELD_WORDS = 32  # at the end of a text that pauses; no name has more initials in a row

_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_SPEAKABLE = re.compile(r"[^\W_]")
_MONTH = (
    "(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\b"
)
# The spaces at which nothing may be cut, not even between sentences.
_BOUND = (
    r"\b(?:Mr|Mrs|Ms|Mx|Dr|Prof|Rev|Hon|Gen|Col|Capt|Lt|Sgt|Sen|Rep|Gov|Mt|Ft)\. (?=\w)"
    r"|\b(?i:nos?|vol|figs?|eq|ch|sec|art|op|pp?|approx|ca|v|ver)\. (?=\d)"
    rf"|\b{_MONTH}\.?,? (?=\d)|\d (?={_MONTH})|\d(?:st|nd|rd|th)?,? (?=(?:1\d|20)\d\d\b)"
    r"|\d (?=\d|[%‰°€]|[ap]\.?m\b|(?:hundred|thousand|million|billion|trillion)\b)|[$€£¥] (?=\d)"
)
_BETWEEN_SENTENCES = re.compile(_BOUND)
_MARKS = re.compile(r"[^\w\s]+ ?")
_CLOSING = dict(zip('"`“„«‹「『（([{', '"`”“»›」』）)]}', strict=True))
_OPENING = re.compile(f"[{re.escape(''.join(_CLOSING))}]")
_LONGEST_BOUND = 24  # characters before a space that may forbid a cut there
_WITHIN_SENTENCE = re.compile(rf"{_BOUND}|\b(?:[A-Z]|St|vs|cf|[eE]\.g|[iI]\.e|al)\. (?=\w)")
# Each group of marks is a better place to cut than the next; a cut stands at the end of the match.
_CLAUSE_MARKS = (
    re.compile(r"[.!?…][\"'”’»)\]]*(?= )|[。！？।۔][”’」』）]*"),
    re.compile(r"[;:](?= )|—|–(?= )|[；：؛]"),
    re.compile(r",[\"'”’»]?(?= )|\)(?= )|[，、،]"),
)
_WORD_ENDS = re.compile(r"(?<! ) |[^\x00-\x7f\w\s]")
_CONJUNCTION = re.compile(
    r"(?= (?:and|but|or|nor|so|yet|because|although|though|while|when|where|which|who|that|if|unless|until|than)\b)"
)
_SPACE = re.compile(r"(?= )")


def has_words(text: str) -> bool:
    """Whether a text has a letter or a digit."""
    return _SPEAKABLE.search(text) is not None


def visible(text: str) -> str:
    """A text without invisible characters, of which no piece has any."""
    return _INVISIBLE.sub("", text)


def cut_into_pieces(text: str, settings: PieceSettings) -> tuple[str, ...]:
    """Cuts `text` into speakable pieces of at most `piece_characters`, normally one sentence each.

    A long first sentence is cut at a clause within `first_piece_characters`, so that sound starts early. Text without words
    gives no pieces. The time is linear in the length of the text.
    """
    cutter = Cutter(settings)
    cutter.write(text)
    cutter.flush()
    return tuple(cutter.settled())


class Cutter:
    """Cuts a text that is still being written, in the same way as `cut_into_pieces`.

    A piece is settled once no later text can change it. If the text is flushed only at its end, its pieces are those of the
    whole text.
    """

    def __init__(self, settings: PieceSettings) -> None:
        self._limit = settings.piece_characters
        self._first_limit = settings.first_piece_characters
        self._begun = self._first_limit >= self._limit  # then the first piece has the limit of the others
        self._paragraphs = deque([_Paragraph()])
        self._gap = False  # whether the text ends with space
        self._blank = True  # whether its last line is blank so far
        self._held = ""  # a carriage return that may be the first half of a line break
        self._passed = 0  # up to here the next piece's sentence is known not to end, whatever follows

    def write(self, text: str) -> None:
        """Appends to the text."""
        text = self._held + visible(text)
        self._held = "\r" if text.endswith("\r") else ""
        for line in text.removesuffix(self._held).splitlines(keepends=True):
            self._write_line(line)

    def _write_line(self, line: str) -> None:
        paragraph, words = self._paragraphs[-1], line.split()
        if words:
            # Plain single spaces also keep sentencex 1.0.32 from panicking on "A" + NBSP + ".".
            space = " " if len(paragraph) and (self._gap or line[0].isspace()) else ""
            paragraph.write(space + " ".join(words))
            self._blank = False
        self._gap = line[-1].isspace()
        if line.splitlines()[0] != line:
            if self._blank:
                self._end_paragraph()
            self._blank = True

    def flush(self) -> None:
        """Settles all of the text so far."""
        self._held = ""
        self._end_paragraph()

    def flush_words(self) -> None:
        """Settles the text so far, except for a word or a number at its end that may go on."""
        rest = self._paragraphs[-1].take_end(lambda text: _certain_end(text, self._gap))
        gap = self._gap
        self._end_paragraph()
        self._paragraphs[-1].write(rest)
        self._gap, self._blank = gap, not rest

    def _end_paragraph(self) -> None:
        self._gap, self._blank = False, True
        if len(self._paragraphs[-1]):
            self._paragraphs[-1].complete = True
            self._paragraphs.append(_Paragraph())
            self._passed = 0  # an earlier decision may depend on text that the flush removed

    def settled(self) -> Iterator[str]:
        """The next pieces that are settled. Removes them."""
        while length := self._next_length():
            piece, self._passed = self._paragraphs[0].take(length), 0
            if not len(self._paragraphs[0]) and len(self._paragraphs) > 1:
                self._paragraphs.popleft()
            if has_words(piece):
                self._begun = True
                yield piece

    def _next_length(self) -> int:
        """The length of the next piece; 0 while later text may change it."""
        block, whole = self._paragraphs[0].begin(_REACH * self._limit + 2 * _AHEAD)
        length, ends = self._sentence(block, whole)
        far = 2 * self._limit + _AHEAD  # a sentence this long is cut before its end is known
        if not self._begun and length > self._first_limit and (ends or length >= self._first_limit + _AHEAD):
            cut = _first_cut(block[:length], self._first_limit)
            if cut and _SPEAKABLE.search(block, cut, length):
                return cut
        if not (ends or length >= far):
            return 0
        return length if length <= self._limit else _cut_position(block[: min(length, 2 * self._limit)], self._limit)

    def _sentence(self, block: str, whole: bool) -> tuple[int, bool]:
        """The length of the first sentence and whether it is known to end there. A tiny sentence includes the next one, and
        any sentence a tiny rest. `whole` says that nothing follows the block."""
        for end in _possible_ends(block, self._passed):
            length = end - (block[end - 1] == " ")
            if length > 2 * self._limit or (whole and len(block) - end < _TINY):
                break
            needed = max(end + _TINY, self._needed(block, end))
            if length >= _TINY and needed > len(block) and not whole:
                return length, False
            if length >= _TINY and _is_border(block, end, needed):
                return length, True
            if needed <= len(block):
                self._passed = end
        return len(block), whole

    def _needed(self, block: str, end: int) -> int:
        """How much of the block decides whether a sentence ends at `end`. That includes the rest of a quotation that is open
        there, unless it is too long for one piece."""
        opened, closing = _open_at(block, end)
        most = opened + 2 * self._limit
        closed = block.find(closing, end, most) if closing else -1
        if closed >= 0:
            return closed + 1 + _AHEAD
        return most if closing and len(block) < most else end + _AHEAD


class _Paragraph:
    """Words with single spaces between them, from which pieces are taken. It is `complete` when no more words follow."""

    def __init__(self) -> None:
        self.complete = False
        self._text = ""
        self._at = 0
        self._new: list[str] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def write(self, text: str) -> None:
        """Appends."""
        self._new.append(text)
        self._length += len(text)

    def begin(self, most: int) -> tuple[str, bool]:
        """Up to `most` characters from the beginning, and whether no more follow them."""
        self._join()
        return self._text[self._at : self._at + most], self.complete and self._length <= most

    def take(self, length: int) -> str:
        """Removes and returns the first `length` characters. Also removes the space that follows them."""
        taken = self._text[self._at : self._at + length]
        self._at += length + self._text.startswith(" ", self._at + length)
        self._length = len(self._text) - self._at
        return taken.strip()

    def take_end(self, begin: Callable[[str], int]) -> str:
        """Removes and returns the end, which begins where `begin` finds it."""
        self._join()
        rest = self._text[self._at :]
        place = begin(rest)
        self._text, self._at, self._length = rest[:place], 0, place
        return rest[place:]

    def _join(self) -> None:
        if self._new:
            self._text, self._at = "".join([self._text[self._at :], *self._new]), 0
            self._new.clear()


def _possible_ends(block: str, begin: int) -> Iterator[int]:
    """The places after `begin` at which a sentence may end: behind its mark and closing quotes. sentencex decides."""
    return (marks.end() for marks in _MARKS.finditer(block, begin) if _may_end(marks[0]))


def _may_end(marks: str) -> bool:
    return not marks.isascii() or (marks[-1] == " " and any(mark in marks for mark in ".!?"))


def _open_at(block: str, end: int) -> tuple[int, str]:
    """Where the quotation that is open at `end` begins, and the sign that closes it; "" if there is none."""
    place = 0
    while opens := _OPENING.search(block, place, end):
        closing = _CLOSING[opens[0]]
        closed = block.find(closing, opens.end(), end)
        if closed < 0:
            return opens.start(), closing
        place = closed + 1
    return 0, ""


def _is_border(block: str, end: int, needed: int) -> bool:
    # Inside a run of ASCII, a border is more often part of a host name, a version or a closing quote than a sentence's end.
    if not (block[end - 1] == " " or block[end - 1] > "\x7f"):
        return False
    seen = block[:needed]
    opened, closing = _open_at(block, needed)
    if opened >= end:
        seen += closing  # sentencex takes a quote that is not closed for the end of the sentence before it
    return end in accumulate(map(len, sentences(seen))) and not _is_bound(_BETWEEN_SENTENCES, block[:needed], end)


def _is_bound(pattern: re.Pattern[str], text: str, end: int) -> bool:
    """Whether nothing may be cut after the space before `end`."""
    return any(match.end() == end for match in pattern.finditer(text, max(0, end - _LONGEST_BOUND)))


def _certain_end(text: str, gap: bool) -> int:
    """The last place up to which later text cannot continue a word or a number. `gap` says that space follows the text."""
    ends = [match.end() for match in _WORD_ENDS.finditer(f"{text} " if gap else text)]
    for end in reversed(ends[-_MOST_HELD_WORDS:]):
        begin = text[:end].rstrip() + " "
        if not any(_is_bound(_WITHIN_SENTENCE, begin + more, len(begin)) for more in ("0", "A")):
            return min(end, len(text))
    return 0


def _cut_position(text: str, limit: int) -> int:
    """The best place to cut: at the strongest mark, and there near equal parts."""
    ideal = len(text) / -(-len(text) // limit)
    head = text[: limit + 1]
    bound = _bound_spaces(_WITHIN_SENTENCE, text[: limit + 16])
    last = min(limit, len(text) - _TINY)
    for marks, first in (*((marks, ideal / 2) for marks in _CLAUSE_MARKS), (_CONJUNCTION, ideal / 2), (_SPACE, 1)):
        places = [m.end() for m in marks.finditer(head) if first <= m.end() <= last and m.end() not in bound]
        if places:
            return min(places, key=lambda place: abs(place - ideal))
    space = text.rfind(" ", 1, limit + 1)
    return space if space > 0 else _grapheme_border(text, limit)


def _bound_spaces(pattern: re.Pattern[str], text: str) -> set[int]:
    return {match.end() - 1 for match in pattern.finditer(text)}


def _grapheme_border(text: str, limit: int) -> int:
    for place in range(limit, 0, -1):
        if not _joined(text[place - 1], text[place]):
            return place
    return limit  # a pile of marks longer than a piece has to break somewhere


def _joined(left: str, right: str) -> bool:
    """Whether two characters belong to one written sign."""
    return (
        category(right).startswith("M")
        or "\u200d" in (left, right)  # zero-width joiner
        or right == "\u200c"
        or combining(left) == 9  # virama: it joins the next consonant
        or "\U0001f3fb" <= right <= "\U0001f3ff"  # skin tones
        or ("\U0001f1e6" <= left <= "\U0001f1ff" and "\U0001f1e6" <= right <= "\U0001f1ff")  # flags
        or ("\u1100" <= left <= "\u11ff" and "\u1160" <= right <= "\u11ff")  # Hangul spelled in letters
    )


def _first_cut(sentence: str, first_limit: int) -> int:
    """The end of the last clause within the limit that leaves neither side tiny; 0 if there is none."""
    bound = _bound_spaces(_WITHIN_SENTENCE, sentence)
    last = min(first_limit, len(sentence) - _TINY)
    places = [m.end() for marks in _CLAUSE_MARKS for m in marks.finditer(sentence, 0, last + 1)]
    cut = max((place for place in places if _TINY <= place <= last and place not in bound), default=0)
    return cut if _SPEAKABLE.search(sentence, 0, cut) else 0
