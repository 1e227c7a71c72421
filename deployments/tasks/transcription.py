"""From a recording to windows and transcripts, wherever the engine runs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deployments.audio.decode import decode_stream
from deployments.audio.windows import WindowCutter
from deployments.engines.protocols import RecognitionEngine, RecognitionOptions, Transcript, Window
from deployments.settings import WindowSettings


@dataclass(frozen=True, slots=True)
class TranscriptWindow:
    """The transcript of the next window, and where in the recording that window ends, in seconds."""

    transcript: Transcript
    until_seconds: float


def windows_of(
    recording: bytes, options: RecognitionOptions, sample_rate: int, settings: WindowSettings
) -> Iterator[Window]:
    """Decodes and cuts as it goes. Raises `MotetError` for what is not a recording, or a too long one."""
    cutter = WindowCutter(sample_rate, settings)
    blocks = decode_stream(io.BytesIO(recording), sample_rate=sample_rate, mono=True, max_seconds=settings.max_audio_s)
    for block in blocks:
        for start, samples in cutter.push(block[0]):
            yield Window(samples, start, options)
    for start, samples in cutter.finish():
        yield Window(samples, start, options)


def transcribe_here(
    recording: bytes, options: RecognitionOptions, engine: RecognitionEngine, settings: WindowSettings
) -> Iterator[tuple[Window, Transcript]]:
    """Window by window with an engine in this process, on this thread."""
    for window in windows_of(recording, options, engine.traits.sample_rate, settings):
        result = engine.transcribe([window])[0]
        if isinstance(result, Exception):
            raise result
        yield window, result


def first_second_of_silence(sample_rate: int) -> Window:
    """A window that asks whether the engine answers. Nobody speaks in it, so an engine may answer without its network;
    engines warm that up when they load."""
    noise = np.random.default_rng(0).standard_normal(sample_rate).astype(np.float32) * 1e-3
    return Window(noise, 0.0, RecognitionOptions())
