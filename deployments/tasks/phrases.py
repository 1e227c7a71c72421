"""Cuts a transcript into phrases: the words between two pauses of a recording."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from deployments.engines.protocols import Segment, Word
from deployments.settings import RevoicingSettings
from deployments.tasks.transcription import TranscriptWindow
from deployments.text.segmentation import has_words
from deployments.text.sentences import joined


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words of a recording, spoken from `start_s` to `end_s`. Nothing else is said before `next_s`: there the next phrase
    begins, or the recording ends. `language` is a two-letter code, if known. Seconds are of the recording."""

    index: int
    text: str
    start_s: float
    end_s: float
    next_s: float
    language: str | None = None


class PhraseCutter:
    """Cuts one transcript, window by window.

    A phrase ends at a pause of `pause_s`, and where a sentence ends if the next one would make it longer than `max_phrase_s`.
    It is returned when it is known what follows: the next phrase, or a long silence.
    """

    def __init__(self, settings: RevoicingSettings) -> None:
        self.recording_s = 0.0
        """How much of the recording has been read, and its length in the end."""
        self._settings = settings
        self._held: Phrase | None = None
        self._count = 0

    def push(self, window: TranscriptWindow) -> list[Phrase]:
        """The phrases that a window completes."""
        found: list[Phrase] = []
        for segment in window.transcript.segments:
            language = segment.language or window.transcript.language or None
            for text, start_s, end_s in _between_pauses(segment, self._settings.pause_s):
                if has_words(text):
                    found += self._add(text, start_s, end_s, language)
        self.recording_s = max(self.recording_s, window.until_seconds)
        if self._held and self.recording_s - self._held.end_s >= self._settings.max_phrase_s:
            found += self._release(self.recording_s)
        return found

    def finish(self) -> list[Phrase]:
        """The last phrase, after the last window."""
        return self._release(max(self.recording_s, self._held.end_s)) if self._held else []

    def _add(self, text: str, start_s: float, end_s: float, language: str | None) -> list[Phrase]:
        held, settings = self._held, self._settings
        if held and start_s - held.end_s < settings.pause_s and end_s - held.start_s <= settings.max_phrase_s:
            self._held = replace(held, text=joined([held.text, text]), end_s=max(end_s, held.end_s))
            return []
        start_s = max(start_s, held.end_s) if held else start_s
        ready = self._release(start_s)
        self._held = Phrase(self._count, text, start_s, max(start_s, end_s), start_s, language)
        self._count += 1
        return ready

    def _release(self, next_s: float) -> list[Phrase]:
        held, self._held = self._held, None
        return [replace(held, next_s=next_s)] if held else []


def _between_pauses(segment: Segment, pause_s: float) -> Iterator[tuple[str, float, float]]:
    """The parts of a segment between its pauses: text, start and end. Without the times of words it is one part."""
    if not segment.words:
        yield segment.text.strip(), segment.start, segment.end
        return
    group: list[Word] = []
    for word in segment.words:
        if group and word.start - group[-1].end >= pause_s:
            yield _part(group)
            group = []
        group.append(word)
    yield _part(group)


def _part(words: list[Word]) -> tuple[str, float, float]:
    return "".join(word.text for word in words).strip(), words[0].start, words[-1].end
