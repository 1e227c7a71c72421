"""The decoded sound that the recordings of an audio helper hold together is bounded, and those that wait come in turn."""

from __future__ import annotations

import asyncio
import io
import threading
import wave
from typing import Any

import pytest

from deployments.audio.sound_decoder import AudioInfo
from deployments.engines.protocols import RecognitionOptions
from deployments.errors import Failure, MotetError
from deployments.replica.chunker import Chunker, Cut
from deployments.replica.decoded_memory import MOST_PASSED, DecodedMemory, MemoryShare
from deployments.settings import RecordingSettings, WindowSettings
from deployments.tasks.separation import MAX_REFERENCE_S, SeparationTask
from deployments.tasks.transcription import TranscriptionTask
from deployments.tasks.voice_activity import VoiceActivityTask
from deployments.tasks.voice_embedding import VoiceEmbeddingTask

LONGEST_S = 60.0
RATE = 16_000
STEREO = AudioInfo(48_000, 2, "mp3")
LONG_S = 4 * 3600.0


def recording(seconds: int) -> bytes:
    """A WAV file of silence, mono."""
    with io.BytesIO() as file:
        with wave.open(file, "wb") as writer:
            writer.setnchannels(1)
            writer.setsampwidth(2)
            writer.setframerate(RATE)
            writer.writeframes(bytes(2 * RATE * seconds))
        return file.getvalue()


def unstated(data: bytes) -> bytes:
    """A WAV file without its length, as from a live source, so that a decoder finds out that it is too long on the way."""
    return data[:4] + b"\xff" * 4 + data[8:40] + b"\xff" * 4 + data[44:]


def taking(share: MemoryShare, size: int) -> threading.Thread:
    """A thread that takes a share."""
    thread = threading.Thread(target=share.take, args=(size,))
    thread.start()
    return thread


def until_some_wait(memory: DecodedMemory, count: int) -> None:
    """Returns when so many recordings wait for their shares."""
    pause = threading.Event()
    while len(memory._waiting) < count:
        pause.wait(0.001)


def test_small_shares_pass_a_large_one_a_few_times() -> None:
    memory = DecodedMemory(100, LONGEST_S)
    first, large = memory.share(), memory.share()
    first.take(60)
    threads = [taking(large, 100)]
    until_some_wait(memory, 1)
    for _ in range(MOST_PASSED):
        small = memory.share()
        small.take(10)
        small.close()
    last = memory.share()
    threads.append(taking(last, 10))
    until_some_wait(memory, 2)
    assert not large.taken and not last.taken  # though the last would fit
    first.close()
    threads[0].join(LONGEST_S)
    assert (large.taken, last.taken, memory.held) == (True, False, 100)
    large.close()
    threads[1].join(LONGEST_S)
    assert (last.taken, memory.held) == (True, 10)
    for share in (last, last, first):
        share.close()
    assert memory.held == 0


def test_a_share_of_more_than_all_is_refused_at_once() -> None:
    memory = DecodedMemory(100 * 2**20, LONGEST_S)
    memory.share().take(2**20)
    with pytest.raises(MotetError, match="takes 101 MB") as caught:
        memory.share().take(101 * 2**20)
    assert caught.value.failure.kind == "too_large"
    assert memory.held == 2**20


def test_a_share_waits_for_a_limited_time() -> None:
    memory = DecodedMemory(100, most_wait_s=0.01)
    first, second = memory.share(), memory.share()
    first.take(60)
    with pytest.raises(MotetError, match="Try again in") as caught:
        second.take(41)
    assert caught.value.failure.kind == "overloaded"
    memory.share().take(40)
    assert memory.held == 100


def test_a_share_that_is_closed_no_longer_waits() -> None:
    memory = DecodedMemory(100, LONGEST_S)
    first, second, third = (memory.share() for _ in range(3))
    first.take(100)
    second.close()
    with pytest.raises(MotetError, match="given up"):
        second.take(1)
    first.close()
    third.take(100)
    assert memory.held == 100


@pytest.mark.parametrize(
    ("task", "settings", "most"),
    [
        (SeparationTask((48_000,), 10.0, 3.0), LONG_S, 21 * 48_000 * 2 * 4),
        (SeparationTask((16_000,), 60.0, 3.0), LONG_S, (120 * 16_000 + 48_000) * 2 * 4),
        (
            SeparationTask((48_000,), 10.0, 3.0, reference=b"RIFF"),
            LONG_S,
            (21 * 2 + 2 * MAX_REFERENCE_S) * 48_000 * 4,
        ),
        (TranscriptionTask(16_000, RecognitionOptions(), 30.0), WindowSettings(), 90 * 16_000 * 4 + 48_000 * 2 * 4),
        (
            TranscriptionTask(16_000, RecognitionOptions(), 30.0, "separate"),
            WindowSettings(),
            90 * 16_000 * 2 * 4 + 48_000 * 2 * 4,
        ),
        (VoiceActivityTask(), WindowSettings(), 48_000 * 2 * 4),
    ],
)
def test_a_task_says_how_much_decoded_sound_it_holds(task: Any, settings: Any, most: int) -> None:
    assert task.held_bytes(STEREO, settings) == most


def test_the_embedding_of_a_voice_holds_more_than_its_windows() -> None:
    windows = TranscriptionTask(16_000, RecognitionOptions(), 30.0).held_bytes(STEREO, WindowSettings())
    assert VoiceEmbeddingTask().held_bytes(STEREO, WindowSettings()) > windows


async def separated(helper: Chunker, name: str, data: bytes, most: list[int]) -> list[int] | Failure:
    """The places of the chunks of a recording, which a model takes one by one."""
    task = SeparationTask((RATE,), 10.0, 3.0)
    assert await helper.open(name, task, LONG_S) is None
    feeding = asyncio.create_task(helper.feed(name, data, True))
    found = []
    while (cut := await helper.next(name)) is not None:
        if isinstance(cut, Failure):
            return cut
        assert isinstance(cut, Cut)
        most[0] = max(most[0], helper._memory.held)
        found.append(cut.ticket.index)
        await helper.fetch(name, cut.ticket.index)
    await feeding
    await helper.close(name)
    return found


async def test_recordings_wait_for_the_memory_of_others_and_hold_no_decoder_meanwhile() -> None:
    """A chunk of 10 s at 16 kHz has 0.6 MB; three recordings would take 4 MB."""
    helper, most = Chunker(RecordingSettings(decoded_mb=2, decoders=1)), [0]
    async with asyncio.timeout(LONGEST_S):
        data = recording(20)
        found = await asyncio.gather(*(separated(helper, str(number), data, most) for number in range(3)))
    assert found == [[0, 1, 2]] * 3
    assert 0 < most[0] <= 2 * 2**20
    assert helper._memory.held == 0


async def test_a_client_that_leaves_while_its_recording_waits_holds_up_nobody() -> None:
    helper, most = Chunker(RecordingSettings(decoded_mb=2, decoders=1)), [0]
    data = recording(20)
    async with asyncio.timeout(LONGEST_S):
        assert await helper.open("first", SeparationTask((RATE,), 10.0, 3.0), LONG_S) is None
        feeding = asyncio.create_task(helper.feed("first", data, True))
        assert isinstance(await helper.next("first"), Cut)
        leaving = asyncio.create_task(separated(helper, "leaving", data, most))
        await asyncio.to_thread(until_some_wait, helper._memory, 1)
        last = asyncio.create_task(separated(helper, "last", data, most))
        await helper.close("leaving")
        assert isinstance(await leaving, Failure)
        await helper.close("first")
        assert await last == [0, 1, 2]
        await feeding


async def test_a_recording_whose_decoding_fails_gives_its_memory_back() -> None:
    helper, most = Chunker(RecordingSettings()), [0]
    async with asyncio.timeout(LONGEST_S):
        assert await helper.open("long", SeparationTask((RATE,), 10.0, 3.0), 15.0) is None
        feeding = asyncio.create_task(helper.feed("long", unstated(recording(20)), True))
        while isinstance(cut := await helper.next("long"), Cut):
            most[0] = max(most[0], helper._memory.held)
        await feeding
    assert isinstance(cut, Failure) and most[0] > 0
    assert helper._memory.held == 0  # before the session is closed
