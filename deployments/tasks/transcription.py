"""From recordings to transcripts: decodes, cuts the speech into windows, and calls the engine; results in order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, replace

import numpy as np

from deployments.audio.channels import Channels, read_channels
from deployments.audio.decode import AudioDecoder
from deployments.audio.file_source import ByteSource
from deployments.audio.sound_decoder import BLOCK_SECONDS, AudioInfo, OpenDecoder, decoded_bytes
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
from deployments.tasks.diarization import SpeakerTask, SpeakerTracker, SpeakerTurn
from deployments.tasks.engine_calls import Call, DoneCall, Item, LocalBatch, Started, in_order, next_here, run_here
from deployments.tasks.placing import placed
from deployments.text.sentences import joined


@dataclass(frozen=True, slots=True)
class TranscriptionTask:
    """How to transcribe a recording. `sample_rate` is the model's, in Hz, and `max_window_s` its longest window.

    Several channels are mixed, or each is transcribed by itself. `size_bytes` is the recording's, where it is known.
    `first_window_s` shortens the first window, for text that is streamed. `voice_activity` replaces that of the settings.
    """

    sample_rate: int
    options: RecognitionOptions
    max_window_s: float
    channels: Channels = "mix"
    size_bytes: int | None = None
    speakers: SpeakerTask | None = None
    first_window_s: float | None = None
    voice_activity: VoiceActivitySettings | None = None

    def cut(
        self, file: ByteSource, settings: WindowSettings, open_decoder: OpenDecoder = AudioDecoder
    ) -> Generator[tuple[WindowTicket, Window | None]]:
        """Decodes and cuts as it is asked. Raises what the decoder and `SpeakerTracker` raise."""
        decoder = open_decoder(file, mono=False, max_seconds=settings.max_audio_s, size_bytes=self.size_bytes)
        with closing(decoder):
            tracker = SpeakerTracker(self.speakers, open_decoder=open_decoder) if self.speakers else None
            cutter = _RecordingCutter(self, settings, decoder.info.channels, tracker)
            for rows in read_channels(decoder, self.sample_rate, self.channels):
                yield from cutter.push(rows)
            yield from cutter.finish()

    def held_bytes(self, info: AudioInfo, settings: WindowSettings) -> int:
        """The bytes of speech that waits, of the window that is cut from it, of one that was cut, and of a block."""
        window_s = min(settings.window_s, self.max_window_s)
        rows = info.channels if self.channels == "separate" else 1
        block = decoded_bytes(BLOCK_SECONDS, info.sample_rate, info.channels)
        return block + decoded_bytes(3 * window_s, self.sample_rate, rows)


def task_for(traits: RecognitionTraits, options: RecognitionOptions) -> TranscriptionTask:
    """The task of a model for whole recordings without speakers."""
    return TranscriptionTask(traits.sample_rate, options, traits.max_window_seconds)


@dataclass(frozen=True, slots=True)
class WindowTicket:
    """What is known of a window without its samples.

    The recording has been read up to second `until_s`. `channel` is the window's, if channels are separate. A ticket without
    spans has no window: it reports a silence, or the end. The last ticket's `until_s` is the recording's length, and it has
    the `turns` if speakers were asked for. Without `voice_activity`, spans do not begin and end with speech.
    """

    index: int
    spans: tuple[Span, ...]
    until_s: float
    channel: int | None = None
    turns: tuple[SpeakerTurn, ...] = ()
    voice_activity: bool = True


@dataclass(frozen=True, slots=True)
class TranscriptWindow:
    """The next transcript of a recording, with times in seconds of the recording; for the rest see `WindowTicket`.

    `tokens` counts those that the model wrote: sentences that were placed without the times of words do not have theirs.
    """

    transcript: Transcript
    until_seconds: float
    channel: int | None = None
    turns: tuple[SpeakerTurn, ...] = ()
    tokens: int = 0

    @property
    def text(self) -> str:
        """The segments' texts as one line."""
        return joined(segment.text for segment in self.transcript.segments)


class _RecordingCutter:
    """Cuts the rows of one recording, at the task's sample rate. A row is a channel, or all channels mixed."""

    def __init__(
        self, task: TranscriptionTask, settings: WindowSettings, channels: int, tracker: SpeakerTracker | None
    ) -> None:
        self._task = task
        self._voice_activity = task.voice_activity or settings.voice_activity
        self._report_samples = settings.report_s * task.sample_rate
        self._tracker = tracker
        rows = channels if task.channels == "separate" else 1
        self._cutters = [self._cutter(settings) for _ in range(rows)]
        self._samples = 0
        self._reported_s = 0.0
        self._index = 0

    def push(self, rows: Samples) -> Iterator[tuple[WindowTicket, Window | None]]:
        """Takes the next samples (rows, n)."""
        self._samples += rows.shape[1]
        yield from self._tickets([cutter.push(row) for cutter, row in zip(self._cutters, rows, strict=True)])
        read_s = self._samples / self._task.sample_rate
        idle = all(cutter.idle for cutter in self._cutters)
        if idle and self._samples - self._reported_s * self._task.sample_rate > self._report_samples:
            yield self._ticket((), read_s), None

    def finish(self) -> Iterator[tuple[WindowTicket, Window | None]]:
        """The rest. The last ticket is for the whole recording."""
        rest = list(self._tickets([cutter.finish() for cutter in self._cutters]))
        *before, last = rest or [(self._ticket((), 0.0), None)]
        yield from before
        turns = self._tracker.turns() if self._tracker else ()
        yield replace(last[0], until_s=self._samples / self._task.sample_rate, turns=turns), last[1]

    def _cutter(self, settings: WindowSettings) -> WindowCutter:
        task = self._task
        longest_s = min(settings.window_s, task.max_window_s)
        shortest_s = min(settings.min_window_s, longest_s * settings.min_window_s / settings.window_s)
        detector = speech_detector(task.sample_rate, self._voice_activity)
        return WindowCutter(task.sample_rate, detector, shortest_s, longest_s, task.first_window_s)

    def _tickets(self, found: Sequence[Sequence[SpeechWindow]]) -> Iterator[tuple[WindowTicket, Window | None]]:
        separate = self._task.channels == "separate"
        windows = ((window, row if separate else None) for row, windows in enumerate(found) for window in windows)
        for window, channel in sorted(windows, key=lambda each: each[0].end_s):
            self._track(window)
            yield self._ticket(window.spans, window.end_s, channel), Window(window.samples, self._task.options)

    def _ticket(self, spans: tuple[Span, ...], until_s: float, channel: int | None = None) -> WindowTicket:
        self._reported_s = max(self._reported_s, until_s)
        ticket = WindowTicket(
            self._index, spans, self._reported_s, channel, voice_activity=self._voice_activity.enabled
        )
        self._index += 1
        return ticket

    def _track(self, window: SpeechWindow) -> None:
        if self._tracker:
            self._tracker.push_window(window, self._task.sample_rate)


async def transcribe(
    calls: AsyncGenerator[tuple[tuple[WindowTicket, Item], Started]],
    transcript_of: Callable[[Started], Awaitable[Transcript | None]],
) -> AsyncGenerator[TranscriptWindow]:
    """The transcript of one recording, window by window in order. Raises what the calls raise.

    `calls` are the tickets with what the caller keeps of their windows, and the started calls of the engine, in order.
    `transcript_of` gives a call's transcript; None for a ticket without a window.
    """
    async with aclosing(calls):
        async for (ticket, _), call in calls:
            yield place_window(ticket, await transcript_of(call))


def place_window(ticket: WindowTicket, transcript: Transcript | None) -> TranscriptWindow:
    """The transcript of the ticket's window, with its times in the recording. None: the ticket has no window."""
    transcript = transcript or Transcript((), "")
    tokens = sum(len(segment.tokens) for segment in transcript.segments)
    found = placed(transcript, ticket.spans, snap=ticket.voice_activity)
    return TranscriptWindow(found, ticket.until_s, ticket.channel, ticket.turns, tokens)


Cut = tuple[int, WindowTicket, Window | None] | tuple[int, None, Exception]
"""The next window of the recording with this number, or why there is none."""


async def transcribe_all(
    recordings: Sequence[ByteSource],
    task: TranscriptionTask,
    settings: WindowSettings,
    start: Callable[[Window], Call[Transcript]],
    width: int,
    open_decoder: OpenDecoder = AudioDecoder,
) -> AsyncGenerator[tuple[int, TranscriptWindow | Exception]]:
    """Transcripts of several recordings, window by window in order, each with the number of its recording.

    `start` calls the engine with a window; at most `width` windows, of any recordings, are under way. Recordings are decoded
    and cut by the caller's thread. An exception is the last item of its recording: a `MotetError` for what is not a recording
    or is longer than `settings.max_audio_s`, or what the engine raised.
    """
    failed: set[int] = set()
    cuts = _cut_all(recordings, task, settings, failed, open_decoder)

    def begin(cut: Cut) -> Call[Transcript | None]:
        window = cut[2]
        return start(window) if isinstance(window, Window) else DoneCall(window)

    with closing(cuts):
        async with aclosing(in_order(lambda: next_here(cuts), begin, width)) as calls:
            async for (at, ticket, _), call in calls:
                if at in failed:
                    call.cancel()
                    continue
                try:
                    transcript = await call
                except Exception as error:
                    failed.add(at)
                    yield at, error
                else:
                    assert ticket is not None
                    yield at, place_window(ticket, transcript)


def _cut_all(
    recordings: Sequence[ByteSource],
    task: TranscriptionTask,
    settings: WindowSettings,
    failed: Collection[int],
    open_decoder: OpenDecoder,
) -> Generator[Cut]:
    for at, recording in enumerate(recordings):
        try:
            with closing(task.cut(recording, settings, open_decoder)) as windows:
                for ticket, window in windows:
                    yield at, ticket, window
                    if at in failed:
                        break
        except Exception as error:
            yield at, None, error


def transcribe_here(
    recording: ByteSource, task: TranscriptionTask, engine: RecognitionEngine, settings: WindowSettings, width: int = 1
) -> Iterator[TranscriptWindow]:
    """The transcript of one recording by an engine in this process. Up to `width` windows share a batch."""
    calls = LocalBatch(engine.transcribe)
    for _, window in run_here(transcribe_all([recording], task, settings, calls.start, width)):
        if isinstance(window, Exception):
            raise window
        yield window


def text_of(windows: Sequence[TranscriptWindow]) -> str:
    """Everything that was said, as one line."""
    return joined(segment.text for segment in segments_of(windows))


def segments_of(windows: Sequence[TranscriptWindow]) -> list[Segment]:
    """Every segment, in the order of time: windows of separate channels overlap."""
    segments = [segment for window in windows for segment in window.transcript.segments]
    return sorted(segments, key=lambda segment: segment.start)


def seconds_of(windows: Sequence[TranscriptWindow]) -> float:
    """The recording's length in seconds, to the millisecond."""
    return round(windows[-1].until_seconds, 3) if windows else 0.0


def language_of(windows: Sequence[TranscriptWindow]) -> str | None:
    """The language that is spoken longest, as a two-letter code; None if nothing was said."""
    seconds: dict[str, float] = defaultdict(float)
    for window in windows:
        for segment in window.transcript.segments:
            seconds[segment.language or window.transcript.language] += segment.end - segment.start
    return max(seconds, key=seconds.__getitem__, default=None)


def turns_of(windows: Sequence[TranscriptWindow]) -> tuple[SpeakerTurn, ...]:
    """Who speaks when, as the end of the recording says."""
    return windows[-1].turns if windows else ()


def probe_window(sample_rate: int) -> Window:
    """A window that tests whether the engine answers. Nobody speaks in it, so an engine may answer without its network;
    engines warm that up when they load."""
    noise = np.random.default_rng(0).standard_normal(sample_rate).astype(np.float32) * 1e-3
    return Window(noise, RecognitionOptions())
