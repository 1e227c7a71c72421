"""Cuts the speech of a stream into windows for recognition: silences are cut out, and sections share windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deployments.audio.stream_tail import StreamTail
from deployments.audio.voice_activity import SpeechDetector, SpeechPart
from deployments.engines.protocols import Samples, Span

LOUDNESS_SECONDS = 0.1
"""The length over which loudness is measured to find the quietest moment."""
LONGEST_WAIT = 2.0
"""Speech is held back for more speech to fill its window for at most this many windows' lengths of the recording."""


@dataclass(frozen=True, slots=True)
class SpeechWindow:
    """Mono (n,) samples of at most a window's length, and where in the recording their speech lies. `end_s` is where the last
    of them ends in the recording, in seconds."""

    samples: Samples
    spans: tuple[Span, ...]
    end_s: float


@dataclass(slots=True)
class _Section:
    """A section of speech, or a part of one, among the samples that wait. In samples; `offset` counts what waits, and all
    others count the stream. The speech lies between the padding."""

    offset: int
    start: int
    end: int
    speech_start: int
    speech_end: int


@dataclass(slots=True)
class WindowLengths:
    """In samples: a window is at most `longest`, and at least `shortest` if more speech follows without a pause."""

    shortest: int
    longest: int


class WindowCutter:
    """Cuts one mono stream. It holds at most one window of speech, and the sound that `detector` has not decided about."""

    def __init__(
        self,
        sample_rate: int,
        detector: SpeechDetector,
        min_window_s: float,
        window_s: float,
        first_s: float | None = None,
    ) -> None:
        """A window is `min_window_s` to `window_s` long. With `first_s`, the first ends at the first pause after that long,
        and is at most twice as long."""
        self._rate = sample_rate
        self._detector = detector
        self._usual = WindowLengths(int(min_window_s * sample_rate), int(window_s * sample_rate))
        self._first = self._first_lengths(first_s)
        self._sound = StreamTail()
        self._speech: list[Samples] = []
        self._length = 0
        self._sections: list[_Section] = []
        self._open = False

    @property
    def idle(self) -> bool:
        """Whether no speech waits, as in a long silence."""
        return not self._sections

    def push(self, samples: Samples) -> list[SpeechWindow]:
        """Takes the next (n,) samples. Returns the windows that are complete."""
        self._sound.push(samples)
        windows = self._take(self._detector.push(samples))
        self._sound.drop(self._detector.settled)
        if self._sections and not self._open:
            waited = self._detector.settled - self._sections[0].start
            if waited > LONGEST_WAIT * self._usual.longest:
                windows += self._rest()
        return windows

    def finish(self) -> list[SpeechWindow]:
        """Ends the stream, and returns the last windows."""
        return self._take(self._detector.finish()) + self._rest()

    def _rest(self) -> list[SpeechWindow]:
        """A window of all that waits; none if that is padding."""
        spoken = any(section.speech_end > section.speech_start for section in self._sections)
        return [self._window(self._length)] if spoken else []

    def _first_lengths(self, first_s: float | None) -> WindowLengths | None:
        if first_s is None:
            return None
        shortest = min(int(first_s * self._rate), self._usual.shortest)
        return WindowLengths(shortest, min(2 * shortest, self._usual.longest))

    @property
    def _lengths(self) -> WindowLengths:
        return self._first or self._usual

    def _take(self, parts: list[SpeechPart]) -> list[SpeechWindow]:
        windows = []
        for part in parts:
            self._append(part)
            while self._length > self._lengths.longest:
                windows.append(self._window(self._best_cut()))
            if self._first and part.ends and self._length >= self._first.shortest:
                windows.append(self._window(self._length))
        return windows

    def _append(self, part: SpeechPart) -> None:
        if self._open and self._sections:
            section = self._sections[-1]
            section.end, section.speech_end = part.end, part.speech_end
        elif part.end > part.start:
            self._sections.append(_Section(self._length, part.start, part.end, part.speech_start, part.speech_end))
        self._open = not part.ends
        self._speech.append(self._sound.between(part.start, part.end))
        self._length += part.end - part.start

    def _best_cut(self) -> int:
        """The longest pause that keeps to the lengths, or else the quietest moment."""
        lengths = self._lengths
        pauses = [
            (after.start - before.end, after.offset)
            for before, after in zip(self._sections, self._sections[1:], strict=False)
            if lengths.shortest <= after.offset <= lengths.longest
        ]
        return max(pauses)[1] if pauses else self._quietest(self._joined())

    def _quietest(self, held: Samples) -> int:
        """The middle of the quietest moment between the shortest and the longest window, in samples."""
        shortest, longest = self._lengths.shortest, self._lengths.longest
        width = max(1, int(LOUDNESS_SECONDS * self._rate))
        energy = np.cumsum(np.square(held[shortest:longest], dtype=np.float64))
        if len(energy) <= width:
            return longest
        loudness = energy[width:] - energy[:-width]
        # The latest of equally quiet moments wins: a longer window gives the model more context.
        quietest = len(loudness) - 1 - int(np.argmin(loudness[::-1]))
        return shortest + quietest + width // 2

    def _joined(self) -> Samples:
        if len(self._speech) > 1:
            self._speech = [np.concatenate(self._speech)]
        return self._speech[0]

    def _window(self, length: int) -> SpeechWindow:
        """Takes the first `length` samples that wait."""
        held = self._joined()
        sections, self._sections = _divided(self._sections, length)
        self._speech, self._length, self._first = [held[length:].copy()], self._length - length, None
        spans = tuple(self._span(section) for section in sections)
        return SpeechWindow(held[:length].copy(), spans, sections[-1].end / self._rate)

    def _span(self, section: _Section) -> Span:
        offset = section.offset + section.speech_start - section.start
        return Span(offset / self._rate, section.speech_start / self._rate, section.speech_end / self._rate)


def _divided(sections: list[_Section], length: int) -> tuple[list[_Section], list[_Section]]:
    """The sections in the first `length` samples, and those after, whose offsets count from there."""
    before = [section for section in sections if section.offset < length]
    after = [section for section in sections if section.offset >= length]
    for section in after:
        section.offset -= length
    last = before[-1]
    cut = last.start + length - last.offset
    if cut < last.end:
        speech_from, speech_until = max(last.speech_start, cut), max(last.speech_end, cut)
        after.insert(0, _Section(0, cut, last.end, speech_from, speech_until))
        last.end, last.speech_start, last.speech_end = cut, min(last.speech_start, cut), min(last.speech_end, cut)
    return before, after
