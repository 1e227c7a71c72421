"""Cuts a transcript into phrases: the words between two pauses of a recording."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from deployments.engines.protocols import Segment, Transcript, Word
from deployments.settings import RevoicingSettings
from deployments.tasks.diarization import with_speakers
from deployments.tasks.transcription import TranscriptWindow, language_of, segments_of, turns_of
from deployments.text.segmentation import has_words
from deployments.text.sentences import joined


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words of a recording, spoken from `start_s` to `end_s`. Nothing else is said before `next_s`: there the next phrase
    begins, or the recording ends. `language` is a two-letter code and `speaker` a name, if known. Seconds are of the
    recording."""

    index: int
    text: str
    start_s: float
    end_s: float
    next_s: float
    language: str | None = None
    speaker: str | None = None


class PhraseCutter:
    """Cuts one transcript, window by window.

    A phrase ends at a pause of `pause_s`, where another speaker begins, and where a sentence ends if the next one would make
    it longer than `max_phrase_s`. It is returned when it is known what follows: the next phrase, or a long silence.
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
            for phrase in _between_pauses(segment, window.transcript.language, self._settings.pause_s):
                if has_words(phrase.text):
                    found += self._add(phrase)
        self.recording_s = max(self.recording_s, window.until_seconds)
        if self._held and self.recording_s - self._held.end_s >= self._settings.max_phrase_s:
            found += self._release(self.recording_s)
        return found

    def finish(self) -> list[Phrase]:
        """The last phrase, after the last window."""
        return self._release(max(self.recording_s, self._held.end_s)) if self._held else []

    def _add(self, phrase: Phrase) -> list[Phrase]:
        if (held := self._held) and self._continues(held, phrase):
            text = joined([held.text, phrase.text])
            self._held = replace(held, text=text, end_s=max(phrase.end_s, held.end_s))
            return []
        start_s = max(phrase.start_s, held.end_s) if held else phrase.start_s
        ready = self._release(start_s)
        self._held = replace(phrase, index=self._count, start_s=start_s, end_s=max(start_s, phrase.end_s))
        self._count += 1
        return ready

    def _continues(self, held: Phrase, phrase: Phrase) -> bool:
        settings = self._settings
        paused = _is_pause(held.end_s, phrase.start_s, settings.pause_s)
        return not paused and phrase.end_s - held.start_s <= settings.max_phrase_s and phrase.speaker == held.speaker

    def _release(self, next_s: float) -> list[Phrase]:
        held, self._held = self._held, None
        return [replace(held, next_s=next_s)] if held else []


def with_speakers_found(windows: Sequence[TranscriptWindow]) -> TranscriptWindow:
    """A whole transcript as one window, in which each segment has its speaker: only the last window knows the speakers."""
    segments = with_speakers(segments_of(windows), turns_of(windows))
    until_s = windows[-1].until_seconds if windows else 0.0
    return TranscriptWindow(Transcript(segments, language_of(windows) or ""), until_s)


def _between_pauses(segment: Segment, language: str, pause_s: float) -> Iterator[Phrase]:
    """The parts of a segment between its pauses, without numbers. Without the times of words it is one part."""
    whole = Phrase(
        0,
        segment.text.strip(),
        segment.start,
        segment.end,
        segment.end,
        segment.language or language or None,
        segment.speaker,
    )
    if not segment.words:
        yield whole
        return
    group: list[Word] = []
    for word in segment.words:
        if group and _is_pause(group[-1].end, word.start, pause_s):
            yield _part(whole, group)
            group = []
        group.append(word)
    yield _part(whole, group)


def _part(whole: Phrase, words: list[Word]) -> Phrase:
    text, start_s, end_s = "".join(word.text for word in words).strip(), words[0].start, words[-1].end
    return replace(whole, text=text, start_s=start_s, end_s=end_s, next_s=end_s)


def _is_pause(start_s: float, end_s: float, pause_s: float) -> bool:
    return round(end_s - start_s, 3) >= pause_s  # 1.2 - 0.9 is a little less than 0.3
