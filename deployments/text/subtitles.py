"""Subtitles: words with times become cues of a few short lines that can be read in time, as SubRip (SRT) or WebVTT.

The default limits, 42 characters a line, two lines and 17 characters a second, are common in style guides of broadcasters.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from deployments.settings import SubtitleSettings

SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！", "।", "؟")
CLAUSE_ENDS = (",", ";", ":", "—", "–", "、", "，", "；", "：", "،")
CLOSING = "\"'”’)]»」』"

CUE_COST = 1.0
"""What each cue costs, so that a group of words becomes as few cues as the other costs allow. All costs are in this unit."""
CLAUSE_COST, PHRASE_COST = 0.5, 2.0
"""A cue that ends at a comma, and one that ends between two words of a clause. The end of a sentence costs nothing."""
NEXT_SENTENCE_COST = 1.5
"""A sentence that ends inside a cue, so that another begins there."""
SHORT_COST = 2.0
"""A cue that is too short to be read, or shorter than a cue has to be."""
COMMA_COLUMNS = 10
"""How much more uneven two lines may be so that the first ends at a comma."""
UNEVEN_COST = 0.5
"""A full cue. It grows with the square of the length, so that a long sentence is cut into parts of similar length."""


AT_ONCE_S = 1e-3
"""People speak at once if one begins earlier than this before another ends."""


@dataclass(frozen=True, slots=True)
class TimedWord:
    """A word without spaces around it, from `start_s` to `end_s` seconds of the recording. `attached`: without a space
    before it, as in Chinese."""

    text: str
    start_s: float
    end_s: float
    speaker: str | None = None
    attached: bool = False


@dataclass(frozen=True, slots=True)
class Cue:
    """The lines that a screen shows from `start_s` to `end_s`, in seconds with three digits."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]
    speaker: str | None = None


def cues_of(
    words: Sequence[TimedWord], until_s: float, settings: SubtitleSettings, *, named: bool = False
) -> list[Cue]:
    """Cues with each word once, in order. Cues of one speaker do not overlap; those of people who speak at once do.

    A cue begins with its first word and ends with its last, or later if it takes longer to read and nobody speaks before;
    but not after `until_s`, the end of the recording. Where people speak at the same time, a cue has its time to be read.
    `named` puts "Name: " before the words of a speaker.
    """
    parts = [
        part
        for group in _groups(words, settings)
        for part in _parts(group, settings, _label(group[0], settings, named))
    ]
    parts.sort(key=lambda part: part[0].start_s)
    ends_s = _latest_ends(parts, until_s)
    return [_cue(part, end_s, settings, named) for part, end_s in zip(parts, ends_s, strict=True)]


def srt(words: Sequence[TimedWord], until_s: float, settings: SubtitleSettings) -> str:
    """SubRip subtitles. Speakers are named in the text."""
    cues = enumerate(cues_of(words, until_s, settings, named=True), 1)
    return "".join(f"{n}\n{_times(cue, ',')}\n{_plain(cue)}\n\n" for n, cue in cues)


def vtt(words: Sequence[TimedWord], until_s: float, settings: SubtitleSettings) -> str:
    """WebVTT subtitles. Speakers are the voices of cues (`<v Name>`)."""
    cues = cues_of(words, until_s, settings)
    return "WEBVTT\n\n" + "".join(f"{_times(cue, '.')}\n{_voiced(cue)}\n\n" for cue in cues)


def _times(cue: Cue, decimal_mark: str) -> str:
    return f"{clock(cue.start_s, decimal_mark)} --> {clock(cue.end_s, decimal_mark)}"


def _plain(cue: Cue) -> str:
    """The lines of a cue of SubRip, which has no escapes. An arrow would look like the times of a cue."""
    return "\n".join(cue.lines).replace("-->", "->")


def _voiced(cue: Cue) -> str:
    text = html.escape("\n".join(cue.lines), quote=False)
    return f"<v {html.escape(' '.join(cue.speaker.split()), quote=False)}>{text}" if cue.speaker else text


def clock(seconds: float, decimal_mark: str) -> str:
    """A time as hh:mm:ss and milliseconds."""
    milliseconds = max(0, round(seconds * 1000))
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{decimal_mark}{milliseconds % 1000:03}"


# --- From words to cues


def _groups(words: Iterable[TimedWord], settings: SubtitleSettings) -> Iterator[list[TimedWord]]:
    """Words between which no cue has to end: of one speaker, without a long pause."""
    group: list[TimedWord] = []
    for word in words:
        if group and (word.speaker != group[-1].speaker or word.start_s - group[-1].end_s >= settings.pause_s):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _parts(group: Sequence[TimedWord], settings: SubtitleSettings, label: str) -> list[Sequence[TimedWord]]:
    """The group cut into cues at the least cost (dynamic programming over the place of the last cut)."""
    cost, cut_before = [0.0, *([math.inf] * len(group))], [0] * (len(group) + 1)
    for first in range(len(group)):
        for last, columns, sentences in _fitting(group, first, settings, label):
            total = cost[first] + _cost(group, first, last, columns, sentences, settings)
            if total < cost[last + 1]:
                cost[last + 1], cut_before[last + 1] = total, first
    ends = [len(group)]
    while ends[-1]:
        ends.append(cut_before[ends[-1]])
    return [group[start:end] for start, end in pairwise(reversed(ends))]


def _fitting(
    group: Sequence[TimedWord], first: int, settings: SubtitleSettings, label: str
) -> Iterator[tuple[int, int, int]]:
    """The last words of the cues that may begin with the word `first`, with the columns of each and the sentences that end
    before its last word. One word always fits."""
    lines, column, columns, sentences = 1, width_of(label), width_of(label), 0
    for last in range(first, len(group)):
        word = group[last]
        added = width_of(word.text) + (0 if word.attached or last == first else 1)
        if last > first and column + added > settings.line_characters:
            lines, column = lines + 1, width_of(word.text)
        else:
            column += added
        columns += added
        if last > first and (lines > settings.lines or word.end_s - group[first].start_s > settings.max_cue_s):
            return
        yield last, columns, sentences
        sentences += _ends(word, SENTENCE_ENDS)


def _cost(
    group: Sequence[TimedWord], first: int, last: int, columns: int, sentences: int, settings: SubtitleSettings
) -> float:
    at_end = last + 1 == len(group)
    until_s = group[last].end_s + settings.pause_s if at_end else group[last + 1].start_s
    short = until_s - group[first].start_s < _reading_s(columns, settings)
    end = 0.0 if at_end or _ends(group[last], SENTENCE_ENDS) else CLAUSE_COST
    if end and not _ends(group[last], CLAUSE_ENDS):
        end = PHRASE_COST
    share = columns / (settings.lines * settings.line_characters)
    return CUE_COST + end + NEXT_SENTENCE_COST * sentences + SHORT_COST * short + UNEVEN_COST * share**2


def _ends(word: TimedWord, marks: tuple[str, ...]) -> bool:
    return word.text.rstrip(CLOSING).endswith(marks)


def _reading_s(columns: int, settings: SubtitleSettings) -> float:
    return max(settings.min_cue_s, columns / settings.characters_per_second)


def _latest_ends(parts: Sequence[Sequence[TimedWord]], until_s: float) -> list[float]:
    """When the cue of each part has to end: when the next begins; or when the same speaker's next begins, if somebody else
    speaks at the same time. The parts are in the order of their starts."""
    heard_until_s = accumulate((part[-1].end_s for part in parts), max, initial=0.0)
    ends_s, next_s, own_s = list[float](), until_s, dict[str | None, float]()
    for part, before_s in reversed(list(zip(parts, heard_until_s, strict=False))):
        start_s, speaker = part[0].start_s, part[0].speaker
        at_once = next_s < part[-1].end_s - AT_ONCE_S or before_s > start_s + AT_ONCE_S
        ends_s.append(own_s.get(speaker, until_s) if at_once else next_s)
        next_s = own_s[speaker] = start_s
    return ends_s[::-1]


def _cue(words: Sequence[TimedWord], latest_s: float, settings: SubtitleSettings, named: bool) -> Cue:
    lines = wrapped(words, settings.line_characters, _label(words[0], settings, named))
    start_s = words[0].start_s
    end_s = max(words[-1].end_s, start_s + _reading_s(sum(map(width_of, lines)), settings))
    return Cue(round(start_s, 3), round(min(end_s, max(latest_s, start_s)), 3), lines, words[0].speaker)


def _label(word: TimedWord, settings: SubtitleSettings, named: bool) -> str:
    """The speaker's name before the words of a cue. A long one is shortened to half a line, so that words fit beside it."""
    if not (named and word.speaker):
        return ""
    name = " ".join(word.speaker.split())
    most = max(1, settings.line_characters // 2 - len(": "))
    if width_of(name) > most:
        columns = accumulate(map(width_of, name))
        name = "".join(c for c, end in zip(name, columns, strict=True) if end < most).rstrip() + "…"
    return f"{name}: "


# --- Lines


def wrapped(words: Sequence[TimedWord], line_characters: int, label: str = "") -> tuple[str, ...]:
    """The words in as few lines as possible. Two lines are cut where their lengths are similar, better at a comma. A line is
    longer than `line_characters` columns only if it is one word."""
    starts = [0]
    for at in range(1, len(words)):
        if width_of(_line(words, starts[-1], at + 1, label)) > line_characters:
            starts.append(at)
    if len(starts) == 2:
        starts = [0, _best_cut(words, line_characters, label, starts[1])]
    return tuple(_line(words, start, end, label) for start, end in pairwise([*starts, len(words)]))


def _best_cut(words: Sequence[TimedWord], line_characters: int, label: str, last: int) -> int:
    """The first word of the second of two lines. `last` is the last that is possible."""

    def unevenness(cut: int) -> float:
        above, below = width_of(_line(words, 0, cut, label)), width_of(_line(words, cut, len(words), label))
        at_mark = _ends(words[cut - 1], SENTENCE_ENDS + CLAUSE_ENDS)
        return math.inf if below > line_characters else abs(above - below) - COMMA_COLUMNS * at_mark

    return min(range(last, 0, -1), key=unevenness)


def _line(words: Sequence[TimedWord], start: int, end: int, label: str) -> str:
    text = "".join(word.text if word.attached else f" {word.text}" for word in words[start:end]).strip()
    return text if start else label + text


def width_of(text: str) -> int:
    """The columns that a text takes on a screen: two for each wide letter (Chinese, Japanese, Korean), none for accents that
    are combined with the letter before them."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in ("W", "F") else 1 for c in text
    )
