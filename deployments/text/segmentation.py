"""Cuts long text into pieces that a voice can speak one after the other.

Sentence borders come from `sentencex`; what is ours is the fitting: clause cuts for long sentences, company for
tiny ones, an early first piece, and bounded work for any input.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from unicodedata import category, combining

import sentencex

from deployments.settings import PieceSettings

_TINY = 12  # characters; shorter pieces are spoken with a clipped, final intonation
_WINDOW = 4096  # some quotes make sentencex quadratic, so it never sees more than this at once

_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_FULL_WIDTH_STOPS = "。！？」』）"
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
_WITHIN_SENTENCE = re.compile(rf"{_BOUND}|\b(?:[A-Z]|St|vs|cf|[eE]\.g|[iI]\.e|al)\. (?=\w)")
# Each group of marks is a better place to cut than the next; a cut stands at the end of the match.
_CLAUSE_MARKS = (
    re.compile(r"[.!?…][\"'”’»)\]]*(?= )|[。！？।۔][”’」』）]*"),
    re.compile(r"[;:](?= )|—|–(?= )|[；：؛]"),
    re.compile(r",[\"'”’»]?(?= )|\)(?= )|[，、،]"),
)
_CONJUNCTION = re.compile(
    r"(?= (?:and|but|or|nor|so|yet|because|although|though|while|when|where|which|who|that|if|unless|until|than)\b)"
)
_SPACE = re.compile(r"(?= )")


def cut_into_pieces(text: str, settings: PieceSettings) -> tuple[str, ...]:
    """Cuts `text` into speakable pieces of at most `piece_characters`, normally one sentence each.

    A long first sentence is cut at a clause within `first_piece_characters`, so that sound starts early.
    Text with nothing to speak gives no pieces. The work grows linearly with the text.
    """
    limit = settings.piece_characters
    pieces: list[str] = []
    for paragraph in _paragraphs(text):
        fitted = [piece for sentence in _sentences(paragraph, limit) for piece in _fit(sentence, limit)]
        pieces += _join_tiny([piece for piece in fitted if _SPEAKABLE.search(piece)], limit)
    return (*_cut_first(pieces[0], settings.first_piece_characters), *pieces[1:]) if pieces else ()


def _paragraphs(text: str) -> Iterator[str]:
    lines = _INVISIBLE.sub("", text).splitlines()
    for filled, group in groupby(lines, key=lambda line: bool(line.strip())):
        if filled:
            # Plain single spaces also keep sentencex 1.0.32 from panicking on "A" + NBSP + ".".
            yield " ".join(" ".join(group).split())


def _sentences(paragraph: str, limit: int) -> Iterator[str]:
    size = max(_WINDOW, 4 * limit)
    start = 0
    while start < len(paragraph):
        found = _split_sentences(paragraph[start : start + size])
        if start + size < len(paragraph):
            found = _complete(found, size)
        yield from (sentence.strip() for sentence in found)
        start += sum(map(len, found))


def _complete(found: list[str], size: int) -> list[str]:
    """Leaves the last sentence, which the window broke off, to the next window, or half of it if it is huge."""
    *whole, last = found
    if len(last) <= size // 2:
        return whole
    return [*whole, last[: _cut_position(last, len(last) - 1)]]


def _split_sentences(block: str) -> list[str]:
    bound = _bound_spaces(_BETWEEN_SENTENCES, block)
    sentences: list[str] = []
    start = end = 0
    for sentence in _segment(block):
        end += len(sentence)
        # A border inside a run of ASCII is a host name, a version or a closing quote more often than a sentence.
        if end == len(block) or (end - 1 not in bound and (block[end - 1] == " " or block[end - 1] > "\x7f")):
            sentences.append(block[start:end])
            start = end
    return sentences


def _segment(block: str) -> list[str]:
    try:
        return list(sentencex.segment("en", block))
    except BaseException as error:
        # A panic in Rust is no `Exception`; one odd text must not take the replica down.
        if type(error).__name__ != "PanicException":
            raise
        return [block]


def _fit(sentence: str, limit: int) -> Iterator[str]:
    while len(sentence) > limit:
        cut = _cut_position(sentence, limit)
        yield sentence[:cut].strip()
        sentence = sentence[cut:].lstrip()
    yield sentence


def _cut_position(text: str, limit: int) -> int:
    """The best place to cut: near equal parts, at the strongest mark that there is."""
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
        or combining(left) == 9  # virama: the next consonant leans on it
        or "\U0001f3fb" <= right <= "\U0001f3ff"  # skin tones
        or ("\U0001f1e6" <= left <= "\U0001f1ff" and "\U0001f1e6" <= right <= "\U0001f1ff")  # flags
        or ("\u1100" <= left <= "\u11ff" and "\u1160" <= right <= "\u11ff")  # Hangul spelled in letters
    )


def _join_tiny(pieces: list[str], limit: int) -> list[str]:
    joined: list[str] = []
    for index, piece in enumerate(pieces):
        alone = len(piece) < _TINY and index == len(pieces) - 1
        if joined and (alone or len(joined[-1]) < _TINY) and len(joined[-1]) + 1 + len(piece) <= limit:
            joined[-1] += piece if joined[-1][-1] in _FULL_WIDTH_STOPS else f" {piece}"
        else:
            joined.append(piece)
    return joined


def _cut_first(piece: str, first_limit: int) -> list[str]:
    if len(piece) <= first_limit:
        return [piece]
    bound = _bound_spaces(_WITHIN_SENTENCE, piece)
    last = min(first_limit, len(piece) - _TINY)
    places = [m.end() for marks in _CLAUSE_MARKS for m in marks.finditer(piece, 0, last + 1)]
    cut = max((place for place in places if _TINY <= place <= last and place not in bound), default=0)
    parts = [piece[:cut].strip(), piece[cut:].strip()] if cut else [piece]
    return [piece] if not all(_SPEAKABLE.search(part) for part in parts) else parts
