"""From recordings to transcripts: cuts into windows, calls the engine, and puts the results in order."""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import numpy as np

from deployments.audio.decode import decode_stream
from deployments.audio.windows import WindowCutter
from deployments.engines.protocols import RecognitionEngine, RecognitionOptions, Segment, Transcript, Window
from deployments.settings import WindowSettings
from deployments.tasks.engine_calls import Call, FailedCall, LocalBatch, in_order, next_here, run_here

Cut = tuple[int, float, Window | Exception]
"""The next window of the recording with this number, from this second, or why there is none."""


@dataclass(frozen=True, slots=True)
class TranscriptWindow:
    """The transcript of the next window, and where in the recording that window ends, in seconds."""

    transcript: Transcript
    until_seconds: float


async def transcribe_all(
    recordings: Sequence[bytes],
    options: RecognitionOptions,
    sample_rate: int,
    settings: WindowSettings,
    start: Callable[[Window], Call[Transcript]],
    width: int,
    advance: Callable[[Iterator[Cut]], Awaitable[Cut | None]] = next_here,
) -> AsyncGenerator[tuple[int, TranscriptWindow | Exception]]:
    """Transcripts of several recordings, window by window in order, each with the number of its recording.

    `start` calls the engine with a window at `sample_rate` Hz; at most `width` windows, of any recordings, are under way.
    `advance` says where recordings are decoded and cut. An exception is the last item of its recording: a `MotetError` for
    what is not a recording or is longer than `settings.max_audio_s`, or what the engine raised.
    """
    failed: set[int] = set()
    cuts = _cut(recordings, options, sample_rate, settings, failed)

    def begin(cut: Cut) -> Call[Transcript]:
        window = cut[2]
        return FailedCall(window) if isinstance(window, Exception) else start(window)

    async with aclosing(in_order(lambda: advance(cuts), begin, width)) as calls:
        async for (at, start_s, window), call in calls:
            if at in failed:
                call.cancel()
                continue
            try:
                transcript = await call
            except Exception as error:
                failed.add(at)
                yield at, error
            else:
                assert isinstance(window, Window)
                segments = tuple(segment.moved(start_s) for segment in transcript.segments)
                until = start_s + len(window.samples) / sample_rate
                yield at, TranscriptWindow(replace(transcript, segments=segments), until)


async def transcribe(
    recording: bytes,
    options: RecognitionOptions,
    sample_rate: int,
    settings: WindowSettings,
    start: Callable[[Window], Call[Transcript]],
    width: int,
    advance: Callable[[Iterator[Cut]], Awaitable[Cut | None]] = next_here,
) -> AsyncGenerator[TranscriptWindow]:
    """The transcript of one recording, as `transcribe_all`. Raises what ends the recording."""
    windows = transcribe_all([recording], options, sample_rate, settings, start, width, advance)
    async with aclosing(windows):
        async for _, window in windows:
            if isinstance(window, Exception):
                raise window
            yield window


def transcribe_here(
    recording: bytes, options: RecognitionOptions, engine: RecognitionEngine, settings: WindowSettings
) -> Iterator[TranscriptWindow]:
    """The transcript of one recording by an engine in this process, one window at a time."""
    calls = LocalBatch(engine.transcribe)
    return run_here(transcribe(recording, options, engine.traits.sample_rate, settings, calls.start, width=1))


def _cut(
    recordings: Sequence[bytes],
    options: RecognitionOptions,
    sample_rate: int,
    settings: WindowSettings,
    failed: Collection[int],
) -> Iterator[Cut]:
    for at, recording in enumerate(recordings):
        try:
            for start_s, window in _windows_of(recording, options, sample_rate, settings):
                yield at, start_s, window
                if at in failed:
                    break
        except Exception as error:
            yield at, 0.0, error


def _windows_of(
    recording: bytes, options: RecognitionOptions, sample_rate: int, settings: WindowSettings
) -> Iterator[tuple[float, Window]]:
    cutter = WindowCutter(sample_rate, settings)
    blocks = decode_stream(io.BytesIO(recording), sample_rate=sample_rate, mono=True, max_seconds=settings.max_audio_s)
    for block in blocks:
        for start, samples in cutter.push(block[0]):
            yield start, Window(samples, options)
    for start, samples in cutter.finish():
        yield start, Window(samples, options)


def text_of(windows: Sequence[TranscriptWindow]) -> str:
    """Everything that was said, as one line."""
    return " ".join(window.transcript.text for window in windows if window.transcript.text)


def segments_of(windows: Sequence[TranscriptWindow]) -> list[Segment]:
    """Every segment, in order."""
    return [segment for window in windows for segment in window.transcript.segments]


def seconds_of(windows: Sequence[TranscriptWindow]) -> float:
    """The recording's length in seconds, to the millisecond."""
    return round(windows[-1].until_seconds, 3) if windows else 0.0


def probe_window(sample_rate: int) -> Window:
    """A window that tests whether the engine answers. Nobody speaks in it, so an engine may answer without its network;
    engines warm that up when they load."""
    noise = np.random.default_rng(0).standard_normal(sample_rate).astype(np.float32) * 1e-3
    return Window(noise, RecognitionOptions())
