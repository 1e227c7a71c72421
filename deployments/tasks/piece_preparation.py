"""From a text to pieces that one voice of a model can speak. The service, the command line and bulk jobs all use it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from deployments.engines.protocols import SpeechTraits, Voice
from deployments.errors import fail
from deployments.settings import PieceSettings
from deployments.tasks.speech import is_spoken, no_words
from deployments.tasks.voice_choice import choose_voice, speaker_marker
from deployments.text.lexicon import Lexicon
from deployments.text.normalization.cutter import WrittenTextCutter, cut_written_text
from deployments.text.normalization.normalizer import normalized
from deployments.text.normalization.rules import ReadingRules
from deployments.text.phonemes import without_pronounced_words
from deployments.text.piece import Piece
from deployments.text.scripts import ReadableLetters
from deployments.text.segmentation import Cutter, cut_into_pieces
from deployments.text.speakers import marks
from deployments.text.spoken import FixedReading, spoken_of, with_gaps_filled
from deployments.text.ssml.parser import read_ssml
from deployments.text.ssml.passages import Passage

_ENDS_PHRASE = re.compile(r"[^\w\s][\"'”’»)\]]*$")
"""A text after which a voice pauses anyway."""


MOST_UNREAD = 0.5
"""The share of letters that may be in a script that the voice does not read."""


@dataclass(frozen=True, slots=True)
class PreparedText:
    """The pieces of a whole text, the attributes of its SSML that were ignored, such as `prosody.pitch`, and the scripts of
    which the voice reads nothing."""

    pieces: tuple[Piece, ...]
    ignored: tuple[str, ...] = ()
    unread_scripts: str = ""


class PieceMaker:
    """Makes the pieces of one text for a voice of a model, and says what is spoken of each.

    `lexicons` have words and how to say them (`text/lexicon.py`), the most important first, and `rules` say what else is read
    otherwise than it is written.
    """

    def __init__(self, traits: SpeechTraits, voice: str, lexicons: Sequence[Lexicon], rules: ReadingRules) -> None:
        self._traits = traits
        self._voice = voice
        self._script = traits.most_speakers > 1
        self._mark = speaker_marker(traits, voice)
        self._lexicons = lexicons
        self._language = language_of(traits, voice)
        self._rules = rules
        self.readable = ReadableLetters()
        """The letters of all pieces so far."""

    def refuse_unreadable(self) -> None:
        """Raises `MotetError` (invalid) if the voice cannot read most of the text so far."""
        if self.readable.unread_share > MOST_UNREAD:
            cause = f"The voice {self._voice!r} of the language {self._language} does not read {self.readable.scripts}."
            remedy = "Send a text in its script, or choose a voice or a model of the text's language."
            raise fail("invalid", cause, remedy, param="input", code="script_not_supported")

    def __call__(self, parts: Sequence[str]) -> tuple[Piece, ...]:
        """The pieces of the next parts of a text, as they were cut. Raises `MotetError` (invalid) when a speaker of a script
        has no voice."""
        return tuple(piece for part in parts for piece in self._piece(part, (), self._language))

    def cutter(self, settings: PieceSettings) -> Cutter:
        """What cuts a text that is still being written."""
        return WrittenTextCutter(settings, self._rules)

    def of_text(self, text: str, settings: PieceSettings) -> PreparedText:
        """A whole text. Raises `MotetError` (invalid) also for one without words."""
        pieces = self._checked(text, self(cut_written_text(text, settings, self._rules)))
        return PreparedText(pieces, unread_scripts=self.readable.scripts)

    def of_ssml(self, document: str, settings: PieceSettings, aliases: Mapping[str, str]) -> PreparedText:
        """A document in SSML. `aliases` are other names of voices.

        Raises `MotetError`: (invalid) for a document that cannot be read or has no words, (not_found) for an unknown voice.
        """
        found = read_ssml(document, lambda name: self._language_of(name, aliases), phonemes=self._traits.phonemes)
        pieces: list[Piece] = []
        for passage in found.passages:
            voice = None if passage.voice is None else choose_voice(passage.voice, self._traits, aliases)
            spoken = self._of_passage(replace(passage, voice=voice), settings, first=not any(map(is_spoken, pieces)))
            if spoken and pieces and passage.joins and not _ENDS_PHRASE.search(pieces[-1].text):
                pieces[-1] = replace(pieces[-1], goes_on=True)
            pieces += spoken
            if passage.pause_s:
                pieces = pieces or [Piece("", "")]
                pieces[-1] = replace(pieces[-1], pause_s=pieces[-1].pause_s + passage.pause_s)
        return PreparedText(self._checked(document, tuple(pieces)), found.ignored, self.readable.scripts)

    def _of_passage(self, passage: Passage, settings: PieceSettings, *, first: bool) -> list[Piece]:
        """The pieces of a passage, without its pause. Only the first words of a text are cut short."""
        if not first:
            settings = settings.model_copy(update={"first_piece_characters": settings.piece_characters})
        language = self._language_of(passage.voice, {})
        cut = cut_into_pieces(passage.text, settings) or ((passage.text,) if passage.readings else ())
        return [
            replace(piece, speed=passage.speed, voice=passage.voice)
            for part, readings in _divided(passage, cut)
            for piece in self._piece(part, readings, language)
        ]

    def _piece(self, text: str, readings: Iterable[FixedReading], language: str) -> Iterator[Piece]:
        """The piece of a part of the text; none for one that only names a speaker."""
        for marked in self._mark((text,)):
            spoken = spoken_of(text, self._fixed(text, readings), lambda part: normalized(part, language, self._rules))
            if self._traits.phonemes:  # other models learned to read from texts of many languages
                self.readable.add(without_pronounced_words(spoken), language)
            yield Piece(marked, marked.removesuffix(text) + spoken)

    def _fixed(self, text: str, readings: Iterable[FixedReading]) -> Iterator[FixedReading]:
        """The words of a text whose reading is fixed: by its author, as the mark of a speaker, or by a lexicon."""
        if self._script:
            readings = with_gaps_filled(text, readings, marks)
        for lexicon in self._lexicons:
            readings = with_gaps_filled(text, readings, partial(lexicon.readings, phonemes=self._traits.phonemes))
        return iter(readings)

    def _language_of(self, voice: str | None, aliases: Mapping[str, str]) -> str:
        """The language of another voice, or of this one."""
        return self._language if voice is None else language_of(self._traits, aliases.get(voice, voice))

    def _checked(self, text: str, pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
        if any(map(is_spoken, pieces)):
            self.refuse_unreadable()
            return pieces
        if self._script and any(True for _ in marks(text)):
            cause = "The script has no words to speak."
            raise fail("invalid", cause, "Send some words.", param="input", code="empty_input")
        raise no_words()


def language_of(traits: SpeechTraits, voice: str) -> str:
    """The language of a voice, of a mixture or of several speakers: that of the one that is named first. "und" for a clip."""
    first = first_voice(traits, voice)
    return first.language if first else "und"


def first_voice(traits: SpeechTraits, voice: str) -> Voice | None:
    """The voice that is named first in a mixture or in several speakers; None for a clip."""
    first = re.split("[(+,]", voice, maxsplit=1)[0].strip()
    return next((known for known in traits.voices if known.id == first), None)


def _divided(passage: Passage, cut: Sequence[str]) -> Iterator[tuple[str, list[FixedReading]]]:
    """The parts of a passage, each with the readings that begin in it, by the places of the part. A reading that is cut in
    two is spoken with the first part."""
    waiting, end = list(reversed(passage.readings)), 0
    for part in cut:
        start = passage.text.index(part, end)
        end = start + len(part)
        readings = []
        while waiting and waiting[-1].start < end:
            reading = waiting.pop()
            if reading.end <= start:  # of signs that are in no part
                readings.append(FixedReading(0, 0, f"{reading.spoken} "))
                continue
            within = min(reading.end, end) - start
            readings.append(FixedReading(max(reading.start - start, 0), within, reading.spoken))
            if reading.end > end:
                waiting.append(FixedReading(end, reading.end, ""))
                break
        yield part, readings
