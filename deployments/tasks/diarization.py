"""Who speaks when: collects the speech of a recording while it is being cut, and finds its speakers at the end."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from string import ascii_uppercase

import numpy as np

from deployments.audio.decode import AudioDecoder, decode_all
from deployments.audio.resample import resample
from deployments.audio.sound_decoder import OpenDecoder
from deployments.audio.speaker_clustering import most_similar_speakers
from deployments.audio.speaker_embedding import SAMPLE_RATE, DVectorEncoder, Embeddings, shared_encoder
from deployments.audio.speaker_turns import SpeechLog
from deployments.audio.windows import SpeechWindow
from deployments.engines.protocols import Samples, Segment, Word
from deployments.errors import MotetError, fail, quoted

MIN_REFERENCE_S = 2.0
MAX_REFERENCE_S = 10.0
"""The bounds of a known speaker's clip, in seconds, as OpenAI documents them."""
REFERENCE_TOLERANCE_S = 0.1
"""Encoders of MP3 and AAC add up to this much."""
MOST_SPEAKERS = 64
JOIN_GAP_S = 0.5
"""Turns of one speaker with a shorter pause between them are one turn."""


@dataclass(frozen=True, slots=True)
class KnownSpeaker:
    """A name, and a clip of its voice: an encoded recording of 2 to 10 seconds."""

    name: str
    reference: bytes


@dataclass(frozen=True, slots=True)
class SpeakerTask:
    """Which speakers to look for. `speakers` is their number; without it there are `min_speakers` to `max_speakers`.

    Raises `MotetError` (invalid) for numbers that contradict each other, and for names that are empty or equal.
    """

    known: tuple[KnownSpeaker, ...] = ()
    speakers: int | None = None
    min_speakers: int | None = None
    max_speakers: int | None = None

    def __post_init__(self) -> None:
        for param in ("speakers", "min_speakers", "max_speakers"):
            number = getattr(self, param)
            if number is not None and not 1 <= number <= MOST_SPEAKERS:
                raise fail("invalid", f"{param} is {number}.", f"Use 1 to {MOST_SPEAKERS}.", param=param)
        if self.speakers is not None and (self.min_speakers is not None or self.max_speakers is not None):
            raise fail("invalid", "speakers is combined with a bound.", "Use one or the other.", param="speakers")
        if (self.min_speakers or 1) > (self.max_speakers or MOST_SPEAKERS):
            cause = f"min_speakers is {self.min_speakers} and max_speakers is {self.max_speakers}."
            raise fail("invalid", cause, "Use a min_speakers of at most max_speakers.", param="min_speakers")
        self._check_names()

    def _check_names(self) -> None:
        names = [speaker.name for speaker in self.known]
        for name in names:
            if not name.strip() or names.count(name) > 1:
                fault = "occurs twice" if name.strip() else "is empty"
                cause = f"The speaker name {quoted(name)} {fault}."
                raise fail("invalid", cause, "Give each known speaker its own name.", param="known_speaker_names")


@dataclass(frozen=True, slots=True)
class SpeakerTurn:
    """A stretch of a recording in which one speaker talks, in seconds of the recording."""

    start_s: float
    end_s: float
    speaker: str


class SpeakerTracker:
    """Finds the speakers of one recording. It holds 150 KB a minute of speech, and at most 30 s of samples."""

    def __init__(
        self, task: SpeakerTask, encoder: DVectorEncoder | None = None, open_decoder: OpenDecoder = AudioDecoder
    ) -> None:
        """Raises `MotetError`: invalid for a reference that is too short, too long or not a recording; unavailable if the
        encoder's weights are not installed."""
        encoder = encoder or shared_encoder()
        self._task = task
        self._voices = [voice_of(speaker, encoder, open_decoder) for speaker in task.known]
        self._log = SpeechLog(encoder)

    def push(self, samples: Samples, start_s: float) -> None:
        """Takes the next speech: mono (n,) float32 at 16 kHz, which begins at `start_s` of the recording.

        Speech that begins where the last ended continues it, so a long section may come in parts. Sections should be
        without padding: silence at their ends is counted as the speaker's.
        """
        self._log.push(samples, start_s)

    def push_window(self, window: SpeechWindow, sample_rate: int) -> None:
        """Takes the speech of a window at `sample_rate` Hz, without the padding and pauses between its spans."""
        for span in window.spans:
            first, length = round(span.offset_s * sample_rate), round((span.end_s - span.start_s) * sample_rate)
            samples = resample(window.samples[first : first + length], sample_rate, SAMPLE_RATE)
            self.push(samples, span.start_s)

    def turns(self) -> tuple[SpeakerTurn, ...]:
        """The turns of the whole recording, in order, without overlap; for the end of the recording.

        Speakers are named after the known voices that they resemble. The others are "A", "B" and so on, in order of
        appearance.
        """
        task = self._task
        found = self._log.turns(task.speakers, task.min_speakers or 1, task.max_speakers or MOST_SPEAKERS)
        names = self._names(found.voices)
        turns = (SpeakerTurn(start_s, end_s, names[number]) for start_s, end_s, number in found.turns)
        return joined(turns)

    def _names(self, voices: Embeddings) -> list[str]:
        """The name of each voice, of which the first to speak is the first."""
        known = [speaker.name for speaker in self._task.known]
        matches = most_similar_speakers(voices, np.stack(self._voices)) if self._voices else [None] * len(voices)
        letters = (letter for letter in speaker_letters() if letter not in known)
        return [known[match] if match is not None else next(letters) for match in matches]


def voice_of(speaker: KnownSpeaker, encoder: DVectorEncoder, open_decoder: OpenDecoder) -> Embeddings:
    """The embedding (256,) of a known speaker's clip. Raises `MotetError` (invalid)."""
    param = "known_speaker_references"
    about = f"The reference of the speaker {quoted(speaker.name)}"
    longest_s = MAX_REFERENCE_S + REFERENCE_TOLERANCE_S
    try:
        samples = decode_all(speaker.reference, SAMPLE_RATE, True, longest_s, open_decoder)[0]
    except MotetError as error:
        failure = error.failure
        if failure.kind == "too_large":
            raise fail("invalid", f"{about} is longer than 10 s.", "Send 2 to 10 seconds.", param=param) from error
        raise MotetError(replace(failure, cause=f"{about}: {failure.cause}", param=param)) from error
    seconds = len(samples) / SAMPLE_RATE
    if seconds < MIN_REFERENCE_S - REFERENCE_TOLERANCE_S:
        raise fail("invalid", f"{about} has {seconds:.1f} s.", "Send 2 to 10 seconds.", param=param)
    return encoder.embed(samples)


def speaker_letters() -> Iterator[str]:
    """ "A" to "Z", then "AA", "AB" and so on."""
    yield from ascii_uppercase
    for first in speaker_letters():
        yield from (first + second for second in ascii_uppercase)


def joined(turns: Iterable[SpeakerTurn]) -> tuple[SpeakerTurn, ...]:
    """Turns in which no speaker follows itself after less than `JOIN_GAP_S`."""
    found: list[SpeakerTurn] = []
    for turn in turns:
        last = found[-1] if found else None
        if last and last.speaker == turn.speaker and turn.start_s - last.end_s < JOIN_GAP_S:
            found[-1] = replace(last, end_s=turn.end_s)
        else:
            found.append(turn)
    return tuple(found)


def with_speakers(segments: Iterable[Segment], turns: Sequence[SpeakerTurn]) -> tuple[Segment, ...]:
    """Segments with their speakers. A segment is divided between words where the speaker changes.

    Times of segments and turns are of the recording, and turns are in order. A word, or a segment without words, has the
    speaker of most of its time; one beside every turn that of the nearest. Without turns, segments stay as they are.
    """
    speakers = _SpeakerIndex(turns)
    found: list[Segment] = []
    for segment in segments:
        groups = groupby(segment.words, lambda word: speakers.of(word.start, word.end))
        parts = [(speaker, tuple(words)) for speaker, words in groups]
        if len(parts) < 2:
            found.append(replace(segment, speaker=speakers.of(segment.start, segment.end)))
        else:
            found += [_part(segment, words, speaker) for speaker, words in parts]
    return tuple(found)


def _part(segment: Segment, words: tuple[Word, ...], speaker: str | None) -> Segment:
    return replace(
        segment,
        text="".join(word.text for word in words),
        start=segment.start if words[0] is segment.words[0] else words[0].start,
        end=segment.end if words[-1] is segment.words[-1] else words[-1].end,
        tokens=tuple(token for word in words for token in word.tokens),
        words=words,
        speaker=speaker,
    )


class _SpeakerIndex:
    """Finds speakers by time, in turns that are in order and do not overlap."""

    def __init__(self, turns: Sequence[SpeakerTurn]) -> None:
        self._turns = turns
        self._ends = [turn.end_s for turn in turns]

    def of(self, start_s: float, end_s: float) -> str | None:
        """Who speaks most of the time from `start_s` to `end_s`, or else nearest to it; None without turns."""
        first = bisect_right(self._ends, start_s)
        seconds: dict[str, float] = {}
        for turn in islice(self._turns, first, None):
            if turn.start_s >= end_s:
                break
            overlap = min(turn.end_s, end_s) - max(turn.start_s, start_s)
            seconds[turn.speaker] = seconds.get(turn.speaker, 0.0) + overlap
        if seconds:
            return max(seconds, key=seconds.__getitem__)
        beside = self._turns[max(first - 1, 0) : first + 1]
        nearest = min(beside, key=lambda turn: max(turn.start_s - end_s, start_s - turn.end_s), default=None)
        return nearest.speaker if nearest else None


def rttm(turns: Iterable[SpeakerTurn], name: str) -> str:
    """The turns of the recording `name` in Rich Transcription Time Marked format (NIST, 2009), one `SPEAKER` line each.

    Fields of the format have no spaces, so those in names become underscores.
    """
    recording = _field(name)
    lines = (
        f"SPEAKER {recording} 1 {turn.start_s:.3f} {turn.end_s - turn.start_s:.3f} <NA> <NA> {_field(turn.speaker)} "
        "<NA> <NA>\n"
        for turn in turns
    )
    return "".join(lines)


def _field(text: str) -> str:
    return "_".join(text.split()) or "<NA>"
