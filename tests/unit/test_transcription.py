"""The transcription driver: windows of several recordings share batches, in order, and one recording's failure is its own."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from deployments.audio.decode import AudioDecoder
from deployments.audio.encode import open_encoder
from deployments.engines.protocols import (
    RecognitionOptions,
    RecognitionTraits,
    Samples,
    Segment,
    Span,
    Transcript,
    Window,
)
from deployments.errors import MotetError
from deployments.settings import VoiceActivitySettings, WindowSettings
from deployments.tasks.engine_calls import LocalBatch, in_order, next_here, run_here
from deployments.tasks.transcription import (
    TranscriptionTask,
    TranscriptWindow,
    WindowTicket,
    language_of,
    place_window,
    seconds_of,
    segments_of,
    task_for,
    text_of,
    transcribe,
    transcribe_all,
    transcribe_here,
)
from tests.unit.recognition_engine_properties import SENTENCES, spoken

RATE = 8000
SETTINGS = WindowSettings(window_s=2.0, min_window_s=1.5, voice_activity=VoiceActivitySettings(enabled=False))
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
        return Transcript((Segment(str(level), 0.0, 1.0, 0.0, 0.0),), "en")


TASK = task_for(Levels.traits, OPTIONS)


def encoded(*channels: Samples, rate: int = RATE) -> bytes:
    encoder = open_encoder("wav", rate, len(channels))
    return encoder.encode(channels[0] if len(channels) == 1 else np.stack(channels)) + encoder.finish()


def recording(level: int, seconds: float) -> bytes:
    return encoded(np.full(int(seconds * RATE), level / 100, np.float32))


def texts(engine: Levels, recordings: Sequence[bytes], width: int) -> dict[int, str]:
    files = [io.BytesIO(each) for each in recordings]
    windows = run_here(transcribe_all(files, TASK, SETTINGS, LocalBatch(engine.transcribe).start, width))
    found: dict[int, str] = {}
    for at, window in windows:
        said = type(window).__name__ if isinstance(window, Exception) else window.text
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
    windows = list(transcribe_here(io.BytesIO(recording(40, 4.5)), TASK, Levels(), SETTINGS))
    assert (text_of(windows), seconds_of(windows), language_of(windows)) == ("40 40 40", 4.5, "en")
    with pytest.raises(MotetError):
        list(transcribe_here(io.BytesIO(b"no sound"), TASK, Levels(), SETTINGS))


async def test_no_more_calls_are_under_way_than_the_width_and_the_order_stays() -> None:
    running: list[asyncio.Future[Transcript | None]] = []
    most = 0

    async def call() -> Transcript | None:
        nonlocal most
        ended: asyncio.Future[Transcript | None] = asyncio.get_running_loop().create_future()
        running.append(ended)
        most = max(most, len(running))
        if len(running) == 2:  # the later one ends first
            for each in reversed(running):
                each.set_result(Transcript((), "en"))
            running.clear()
        return await ended

    def start(item: tuple[WindowTicket, Window | None]) -> asyncio.Task[Transcript | None]:
        return asyncio.create_task(call())

    cuts = TASK.cut(io.BytesIO(recording(10, 7.5)), SETTINGS)
    driver = transcribe(in_order(lambda: next_here(cuts), start, 2), lambda call: call)
    windows: list[TranscriptWindow] = [window async for window in driver]
    assert most == 2
    ends = [window.until_seconds for window in windows]
    assert ends == sorted(ends) and ends[-1] == 7.5


# --- Speech and silence


SPEECH_RATE = 16_000
SPEECH_TASK = TranscriptionTask(SPEECH_RATE, OPTIONS, 30.0)
PAUSE = np.zeros(SPEECH_RATE, np.float32)


def cut(task: TranscriptionTask, data: bytes, settings: WindowSettings) -> list[tuple[WindowTicket, Window | None]]:
    found = list(task.cut(io.BytesIO(data), settings))
    assert [ticket.index for ticket, _ in found] == list(range(len(found)))
    reached = [ticket.until_s for ticket, _ in found]
    assert reached == sorted(reached)
    assert all(bool(ticket.spans) == (window is not None) for ticket, window in found)
    return found


def sentence(number: int) -> Samples:
    """The sentence without the silence around it."""
    samples = spoken(SENTENCES[number], SPEECH_RATE)
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    return samples[loud[0] : loud[-1]]


def test_silence_is_reported_while_nobody_speaks() -> None:
    silence = np.zeros(100 * SPEECH_RATE, np.float32)
    data = encoded(np.concatenate([silence, sentence(0), silence]), rate=SPEECH_RATE)
    found = cut(SPEECH_TASK, data, WindowSettings())
    length = 200 + len(sentence(0)) / SPEECH_RATE
    assert found[-1][0].until_s == pytest.approx(length, abs=1e-3)
    assert sum(window is not None for _, window in found) == 1
    reached = [0.0, *(ticket.until_s for ticket, _ in found)]
    assert max(np.diff(reached)) < 70


def test_a_recording_without_speech_has_one_ticket_with_its_length() -> None:
    ((ticket, window),) = cut(SPEECH_TASK, encoded(PAUSE, rate=SPEECH_RATE), WindowSettings())
    assert (ticket.spans, ticket.until_s, window) == ((), 1.0, None)


def test_silences_are_cut_out_and_spans_say_where_speech_was() -> None:
    parts = [PAUSE, sentence(0), PAUSE, PAUSE, sentence(1), PAUSE]
    ((ticket, window),) = cut(SPEECH_TASK, encoded(np.concatenate(parts), rate=SPEECH_RATE), WindowSettings())
    assert window is not None
    first, second = len(sentence(0)) / SPEECH_RATE, len(sentence(1)) / SPEECH_RATE
    assert len(window.samples) / SPEECH_RATE == pytest.approx(first + second, abs=1.0)
    bounds = [(span.start_s, span.end_s) for span in ticket.spans]
    np.testing.assert_allclose(bounds, [(1.0, 1.0 + first), (3.0 + first, 3.0 + first + second)], atol=0.1)


@pytest.mark.parametrize("turned", [1.0, -1.0])
def test_two_channels_are_one_recording_even_in_opposite_phase(turned: float) -> None:
    samples = np.concatenate([PAUSE, sentence(0), PAUSE])
    ((ticket, window),) = cut(
        SPEECH_TASK, encoded(samples, samples * np.float32(turned), rate=SPEECH_RATE), WindowSettings()
    )
    assert window is not None and ticket.channel is None
    assert np.abs(window.samples).max() > 0.5 * np.abs(samples).max()


def test_separate_channels_are_cut_apart_and_come_in_the_order_of_time() -> None:
    left = np.concatenate([PAUSE, sentence(0), np.zeros_like(sentence(1)), PAUSE])
    right = np.concatenate([PAUSE, np.zeros_like(sentence(0)), sentence(1), PAUSE])
    task = replace(SPEECH_TASK, channels="separate")
    found = cut(task, encoded(left, right, rate=SPEECH_RATE), WindowSettings())
    assert [ticket.channel for ticket, _ in found] == [0, 1]
    assert found[0][0].spans[-1].end_s < found[1][0].spans[0].start_s + 0.3
    assert found[-1][0].until_s == pytest.approx(len(left) / SPEECH_RATE)


def test_the_first_window_is_short_for_text_that_is_streamed() -> None:
    parts = [part for _ in range(4) for number in range(3) for part in (sentence(number), PAUSE)]
    task = replace(SPEECH_TASK, first_window_s=2.0)
    found = cut(task, encoded(np.concatenate(parts), rate=SPEECH_RATE), WindowSettings())
    lengths = [len(window.samples) / SPEECH_RATE for _, window in found if window is not None]
    assert lengths[0] < 4.5 and max(lengths) > 20


class Unending:
    """A WAV that is read block by block; it counts what was read."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)
        self.read_bytes = 0

    def read(self, size: int, /) -> bytes:
        block = self._data.read(min(size, 65_536))
        self.read_bytes += len(block)
        return block


def test_the_recording_is_read_as_windows_are_asked_for() -> None:
    parts = [part for _ in range(20) for number in range(3) for part in (sentence(number), PAUSE)]
    data = encoded(np.concatenate(parts), rate=SPEECH_RATE)
    file = Unending(data)
    windows = SPEECH_TASK.cut(file, WindowSettings())
    next(windows)
    assert file.read_bytes < 60 * SPEECH_RATE * 2 < len(data)
    windows.close()


def test_a_driver_that_is_stopped_closes_its_decoder() -> None:
    closed: list[AudioDecoder] = []

    class Watched(AudioDecoder):
        def close(self) -> None:
            closed.append(self)
            super().close()

    windows = run_here(
        transcribe_all([Unending(recording(10, 60))], TASK, SETTINGS, LocalBatch(Levels().transcribe).start, 1, Watched)
    )
    next(windows)
    assert closed == []
    windows.close()
    assert len(closed) == 1


def test_the_language_is_that_of_most_speech() -> None:
    def window(language: str, start: float, end: float) -> TranscriptWindow:
        return TranscriptWindow(Transcript((Segment("x", start, end, 0.0, 0.0),), language), end)

    windows = [window("de", 0, 1), window("en", 1, 9), window("de", 9, 11)]
    assert language_of(windows) == "en"
    assert language_of([TranscriptWindow(Transcript((), "en"), 3.0)]) is None


def test_segments_of_separate_channels_are_in_the_order_of_time() -> None:
    def window(channel: int, *starts: float) -> TranscriptWindow:
        segments = tuple(Segment(f"{start:g}", start, start + 1, 0.0, 0.0) for start in starts)
        return TranscriptWindow(Transcript(segments, "en"), 10.0, channel)

    windows = [window(0, 1, 5), window(1, 0, 3)]
    assert [segment.start for segment in segments_of(windows)] == [0, 1, 3, 5]
    assert text_of(windows) == "0 1 3 5"


def test_tokens_are_counted_where_sentences_are_placed_without_them() -> None:
    said = Segment(" One two. Three four.", 0.0, 4.0, -0.1, 0.0, tokens=(5, 6, 7, 8))
    placed = place_window(WindowTicket(0, (Span(0.0, 0.0, 4.0),), 4.0), Transcript((said,), "en"))
    assert [segment.tokens for segment in placed.transcript.segments] == [(), ()]
    assert placed.tokens == 4
    assert place_window(WindowTicket(1, (), 9.0), None).tokens == 0
