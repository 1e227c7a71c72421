"""What is wrong with the sound of a piece: the measures of `audio/speech_measures.py` against limits, and against the pieces
before it.

How the limits were found: 260 pieces of the test texts (1469 s; sentences, half sentences, and names or numbers alone) by
hibari's voice, and 45 (183 s) by Kokoro's jf_alpha, were measured. In brackets: the most extreme values of hibari and of
Kokoro.

* clipped samples: none (0; 0). A wave clipped at half of its peak has 0.4 % and 2.6 % (median).
* longest pause in a piece: (0.80 s; 0.54 s).
* level of the first and last 20 ms against the mean: (-72 dB; -77 dB). A piece that is cut at a random place ends above -10
  dB in two of three cases; the others end in a pause, and most of them are too short.
* level against the median of all pieces: (1.6 dB; 0.6 dB).
* similarity of two parts of 0.7 s, of texts without a repetition: (0.84; 0.73), 99 % below 0.76. When 0.8 to 1.6 s of a
  piece come twice, 95 % are above 0.87.
* pace, against the median of the voice, of pieces of 25 letters or more: (0.75 to 1.37; 0.82 to 1.29). The medians are 0.052
  and 0.055 s for each letter, and texts of 12 letters or more lie between 0.039 and 0.074.

With these limits none of the 305 pieces has a fault, and neither has one of 40 pieces (Kokoro's jm_kumo) that were not used
to find them. Of pieces of 25 letters or more, 92 % (hibari) and 90 % (Kokoro) are found when 40 to 70 % of them are left, 87
% and 87 % when 0.8 to 1.6 s come twice, and all when they are clipped at a third of their peak.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Annotated, Literal

from pydantic import Field

from deployments.audio.speech_measures import SpeechMeasures
from deployments.engines.protocols import FinishReason
from deployments.settings import Fraction, NonNegative, StrictModel
from deployments.text.spoken_length import spoken_letters

MAX_CLIPPED = 0.0005
MAX_PAUSE_S = 1.8
MAX_EDGE_DB = -10.0
MAX_REPETITION = 0.88
MAX_LEVEL_JUMP_DB = 6.0
MIN_LEVEL_DB = -50.0
LONGEST_S_PER_LETTER, SHORTEST_S_PER_LETTER = 0.13, 0.025
LONGER, SHORTER = 1.45, 0.7
LONGER_BY_S, SHORTER_BY_S = 0.6, 0.2
"""Seconds that a piece may be longer or shorter besides: the pace of a few words varies more than that of a sentence."""
MIN_LETTERS = 12.0
"""A shorter text, such as a name, may be spoken at any pace."""
PIECES_COMPARED = 9
MIN_PIECES = 3


Fault = Literal["silent", "clipped", "short", "long", "pause", "cut", "level", "repeated", "runaway", "words"]
"""What is wrong with a piece: it has no sound; it is clipped; it is too short or too long for its text; a pause in
it is too long; it begins or ends in the middle of a sound; it is much louder or quieter than the pieces before; a part of it
comes twice; the model did not find its end; other words were heard."""


class QualitySettings(StrictModel):
    """How the sound of each piece is checked, and when a piece with a fault is made again."""

    enabled: bool = True
    """Whether pieces are measured: clipping, silence, level, length, repetition, and how they begin and end."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 2
    """How often a piece is made at most, each time with another seed. The attempt with the fewest faults is kept. 1: faults
    are reported, and nothing is made again."""
    patience_ms: NonNegative = 300.0
    """How long a listener whose buffer is empty may wait for a piece that is made again. A longer wait needs sound in the
    buffer."""
    ignored: tuple[Fault, ...] = ()
    """Faults that are not looked for, such as `level` for a voice that whispers and shouts."""
    max_wrong_words_share: Fraction = 0.34
    """A verified piece with a larger share of words, and of letters, that were heard differently has the fault `words`."""


@dataclass(frozen=True, slots=True)
class PieceQuality:
    """What was found in piece number `index` of a text after it was made.

    `faults` are those of the sound that was kept; `first_faults` those of the first of its `attempts`. If a recogniser heard
    the piece, `heard` is what it heard, with `wrong_words` of the piece's `words`.
    """

    index: int
    faults: tuple[Fault, ...] = ()
    first_faults: tuple[Fault, ...] = ()
    attempts: int = 1
    heard: str | None = None
    words: int = 0
    wrong_words: int = 0

    @property
    def word_error_rate(self) -> float:
        """Wrong words per word."""
        return self.wrong_words / max(1, self.words)


@dataclass(frozen=True, slots=True)
class QualitySummary:
    """The pieces of a text: how many were checked, made again, and still have a fault, which `faults` those are, and what was
    heard."""

    pieces: int
    made_again: int
    faulty: int
    faults: tuple[Fault, ...]
    words: int
    wrong_words: int
    heard: str | None

    @classmethod
    def of(cls, qualities: Iterable[PieceQuality]) -> QualitySummary:
        """The summary of the pieces that were checked."""
        found = list(qualities)
        heard = [quality.heard for quality in found if quality.heard is not None]
        return cls(
            pieces=len(found),
            made_again=sum(quality.attempts > 1 for quality in found),
            faulty=sum(bool(quality.faults) for quality in found),
            faults=tuple(sorted({fault for quality in found for fault in quality.faults})),
            words=sum(quality.words for quality in found),
            wrong_words=sum(quality.wrong_words for quality in found),
            heard=" ".join(heard) if heard else None,
        )

    @property
    def word_error_rate(self) -> float | None:
        """Wrong words per word of the pieces that were heard; None if none was."""
        return None if self.heard is None else self.wrong_words / max(1, self.words)

    def facts(self, *, with_heard: bool = False) -> dict[str, object]:
        """The summary as JSON."""
        rate = self.word_error_rate
        facts: dict[str, object] = {
            "pieces": self.pieces,
            "made_again": self.made_again,
            "faulty": self.faulty,
            "faults": list(self.faults),
        }
        if rate is not None:
            facts["word_error_rate"] = round(rate, 4)
        return facts | ({"heard": self.heard} if with_heard else {})


@dataclass(slots=True)
class VoiceNorm:
    """The levels and paces of the latest good pieces of one voice in one text."""

    levels_db: deque[float] = field(default_factory=lambda: deque(maxlen=PIECES_COMPARED))
    paces: deque[float] = field(default_factory=lambda: deque(maxlen=PIECES_COMPARED))

    def add(self, measures: SpeechMeasures, text: str, speed: float) -> None:
        """Takes a piece without a fault."""
        letters = spoken_letters(text)
        self.levels_db.append(measures.level_db)
        if letters >= MIN_LETTERS:
            self.paces.append(measures.spoken_seconds * speed / letters)


def faults_of(
    measures: SpeechMeasures, text: str, speed: float, reason: FinishReason, norm: VoiceNorm
) -> tuple[Fault, ...]:
    """The faults of a piece that says `text` at `speed` and ended for a `reason`."""
    if measures.level_db < MIN_LEVEL_DB:
        return ("silent",)
    found: dict[Fault, bool] = {
        "runaway": reason != "stop",
        "clipped": measures.clipped > MAX_CLIPPED,
        "pause": measures.longest_pause_s > MAX_PAUSE_S / min(speed, 1.0),
        "cut": max(measures.start_db, measures.end_db) > MAX_EDGE_DB,
        "repeated": measures.repetition > MAX_REPETITION and not repeats(text),
        "level": _jumps(measures.level_db, norm),
    }
    return (*(fault for fault, there in found.items() if there), *_length_faults(measures, text, speed, norm))


def _jumps(level_db: float, norm: VoiceNorm) -> bool:
    """Whether the level is far from the median of the pieces before."""
    return len(norm.levels_db) >= MIN_PIECES and abs(level_db - median(norm.levels_db)) > MAX_LEVEL_JUMP_DB


def _length_faults(measures: SpeechMeasures, text: str, speed: float, norm: VoiceNorm) -> tuple[Fault, ...]:
    """Whether a piece is too long or too short for its text: against any voice, and against the pieces before."""
    letters, seconds = spoken_letters(text), measures.spoken_seconds * speed
    longest, shortest = LONGEST_S_PER_LETTER * letters, SHORTEST_S_PER_LETTER * letters
    if len(norm.paces) >= MIN_PIECES:
        usual = median(norm.paces) * letters
        longest, shortest = min(longest, LONGER * usual), max(shortest, SHORTER * usual)
    if seconds > longest + LONGER_BY_S:
        return ("long",)
    return ("short",) if seconds < shortest - SHORTER_BY_S and letters >= MIN_LETTERS else ()


REPEATED_LETTERS = 8
"""A text in which as many letters come twice may be spoken with a repetition."""
_OTHER = re.compile(r"[\W_]+")
_DIGIT = re.compile(r"(\d)")


def repeats(text: str) -> bool:
    """Whether a part of the text comes twice, such as "no, no, no, no"."""
    letters = _DIGIT.sub(r"\1\1\1\1", _OTHER.sub("", text.casefold()))
    parts = [letters[at : at + REPEATED_LETTERS] for at in range(len(letters) - REPEATED_LETTERS + 1)]
    return len(set(parts)) < len(parts)
