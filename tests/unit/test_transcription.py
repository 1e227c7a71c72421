"""The transcription driver: windows of several recordings share batches, in order, and one recording's failure is its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from deployments.audio.encode import open_encoder
from deployments.engines.protocols import RecognitionOptions, RecognitionTraits, Segment, Transcript, Window
from deployments.errors import MotetError
from deployments.settings import WindowSettings
from deployments.tasks.engine_calls import LocalBatch, next_in_thread, run_here
from deployments.tasks.transcription import (
    TranscriptWindow,
    seconds_of,
    text_of,
    transcribe,
    transcribe_all,
    transcribe_here,
)

RATE = 8000
SETTINGS = WindowSettings(window_s=2.0, min_window_s=1.5)
OPTIONS = RecognitionOptions()


class Levels:
    """An engine that says how loud a window is, in percent, and keeps its batches. It fails on windows of one level."""

    traits = RecognitionTraits(RATE, (), translates=False, max_window_seconds=30.0)

    def __init__(self, failing: int | None = None) -> None:
        self.failing = failing
        self.batches: list[list[int]] = []

    def transcribe(self, windows: Sequence[Window]) -> list[Transcript | Exception]:
        levels = [round(float(window.samples.max()) * 100) for window in windows]
        self.batches.append(levels)
        return [ValueError(str(level)) if level == self.failing else self._transcript(level) for level in levels]

    def _transcript(self, level: int) -> Transcript:
        return Transcript((Segment(str(level), 0.0, 1.0, 0.0, 1.0, 0.0),), "en")


def recording(level: int, seconds: float) -> bytes:
    encoder = open_encoder("wav", RATE)
    return encoder.encode(np.full(int(seconds * RATE), level / 100, np.float32)) + encoder.finish()


def texts(engine: Levels, recordings: Sequence[bytes], width: int) -> dict[int, str]:
    windows = run_here(transcribe_all(recordings, OPTIONS, RATE, SETTINGS, LocalBatch(engine.transcribe).start, width))
    found: dict[int, str] = {}
    for at, window in windows:
        said = type(window).__name__ if isinstance(window, Exception) else window.transcript.text
        found[at] = f"{found[at]} {said}" if at in found else said
    return found


def test_windows_of_all_recordings_share_batches_in_order() -> None:
    engine = Levels()
    found = texts(engine, [recording(10, 5), recording(20, 1), recording(30, 3)], width=4)
    assert engine.batches == [[10, 10, 10, 20], [30, 30]]
    assert found == {0: "10 10 10", 1: "20", 2: "30 30"}


@pytest.mark.parametrize("broken", [b"RIFF", b"", recording(50, 0)])
def test_what_is_not_a_recording_fails_alone(broken: bytes) -> None:
    engine = Levels()
    assert texts(engine, [recording(10, 1), broken, recording(30, 3)], 8) == {0: "10", 1: "MotetError", 2: "30 30"}
    assert engine.batches == [[10, 30, 30]]


def test_a_window_that_fails_ends_its_recording_and_no_other() -> None:
    engine = Levels(failing=20)
    found = texts(engine, [recording(10, 3), recording(20, 9), recording(30, 3)], width=3)
    assert found == {0: "10 10", 1: "ValueError", 2: "30 30"}
    assert sum(batch.count(20) for batch in engine.batches) < 5


def test_one_recording_in_this_process() -> None:
    windows = list(transcribe_here(recording(40, 4.5), OPTIONS, Levels(), SETTINGS))
    assert (text_of(windows), seconds_of(windows)) == ("40 40 40", 4.5)
    with pytest.raises(MotetError):
        list(transcribe_here(b"no sound", OPTIONS, Levels(), SETTINGS))


async def test_no_more_calls_are_under_way_than_the_width_and_the_order_stays() -> None:
    running: list[asyncio.Future[Transcript]] = []
    most = 0

    async def call(window: Window) -> Transcript:
        nonlocal most
        ended: asyncio.Future[Transcript] = asyncio.get_running_loop().create_future()
        running.append(ended)
        most = max(most, len(running))
        if len(running) == 2:  # the later one ends first
            for each in reversed(running):
                each.set_result(Transcript((), str(len(window.samples))))
            running.clear()
        return await ended

    def start(window: Window) -> asyncio.Task[Transcript]:
        return asyncio.create_task(call(window))

    windows: list[TranscriptWindow] = []
    driver = transcribe(recording(10, 7.5), OPTIONS, RATE, SETTINGS, start, 2, next_in_thread)
    async for window in driver:
        windows.append(window)
    assert most == 2
    ends = [window.until_seconds for window in windows]
    assert ends == sorted(ends) and ends[-1] == 7.5
