"""From recordings to transcripts: decodes, cuts the speech into windows, and calls the engine; results in order."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

import numpy as np

from deployments.audio.channels import ChannelMixer
from deployments.audio.decode import AudioDecoder
from deployments.audio.file_source import ByteSource
from deployments.audio.resample import Resampler
from deployments.audio.voice_activity import speech_detector
from deployments.audio.windows import SpeechWindow, WindowCutter
from deployments.engines.protocols import (
    RecognitionEngine,
    RecognitionOptions,
    RecognitionTraits,
    Samples,
    Segment,
    Span,
    Transcript,
    Window,
)
from deployments.settings import VoiceActivitySettings, WindowSettings
from deployments.tasks.engine_calls import Call, DoneCall, FailedCall, LocalBatch, in_order, next_here, run_here
from deployments.tasks.placing import placed
from deployments.text.sentences import joined

Channels = Literal["mix", "separate"]


@dataclass(frozen=True, slots=True)
class SpeakerTurn:
    """Somebody speaks, from `start_s` to `end_s` seconds of the recording."""

    start_s: float
    end_s: float
    speaker: str


class SpeakerFinder(Protocol):
    """Finds out who speaks when, while a recording is cut."""

    def push(self, samples: Samples, start_s: float) -> None:
        """Takes the next stretch of speech: mono (n,) samples from second `start_s` of the recording on."""

    def turns(self) -> tuple[SpeakerTurn, ...]:
        """The turns of all speakers, once all speech has been pushed."""


class FindsSpeakers(Protocol):
    """Starts a `SpeakerFinder` for samples at `sample_rate` Hz."""

    def finder(self, sample_rate: int) -> SpeakerFinder:
        """A new finder for a recording."""


@dataclass(frozen=True, slots=True)
class WindowTicket:
    """What is known of a window without its samples.

    The recording has been read up to second `until_s`. `channel` is the window's, if channels are separate. A ticket without
    spans has no window: it reports a silence, or the end. The last ticket's `until_s` is the recording's length, and it has
    the `turns`, if speakers were asked for.
    """

    index: int
    spans: tuple[Span, ...]
    until_s: float
    channel: int | None = None
    turns: tuple[SpeakerTurn, ...] = ()


@dataclass(frozen=True, slots=True)
class TranscriptionTask:
    """How to transcribe a recording. `sample_rate` is the model's, in Hz, and `max_window_s` its longest window.

    Several channels are mixed, or each is transcribed by itself. `size_bytes` is the recording's, where it is known.
    `first_window_s` shortens the first window, for text that is streamed. `voice_activity` replaces the settings'.
    """

    sample_rate: int
    options: RecognitionOptions
    max_window_s: float
    channels: Channels = "mix"
    size_bytes: int | None = None
    speakers: FindsSpeakers | None = None
    first_window_s: float | None = None
    voice_activity: VoiceActivitySettings | None = None

    def cut(self, file: ByteSource, settings: WindowSettings) -> Generator[tuple[WindowTicket, Window | None]]:
        """Decodes and cuts as it is asked. Raises what `AudioDecoder` raises."""
        finder = self.speakers.finder(self.sample_rate) if self.speakers else None
        index = 0
        for position, window, channel in self._windows(file, settings):
            if window is None:
                yield WindowTicket(index, (), position), None
            else:
                if finder:
                    _find_speakers(finder, window, self.sample_rate)
                yield (
                    WindowTicket(index, window.spans, position, channel),
                    Window(window.samples, self.options),
                )
            index += 1

    def _windows(
        self, file: ByteSource, settings: WindowSettings
    ) -> Iterator[tuple[float, SpeechWindow | None, int | None]]:
        ...


@dataclass(frozen=True, slots=True)
class TranscriptWindow:
    """The next transcript of a recording, with times in seconds of the recording, and how far the recording has been read.
    See `WindowTicket`."""

    transcript: Transcript
    until_seconds: float
    channel: int | None = None
    turns: tuple[SpeakerTurn, ...] = ()
