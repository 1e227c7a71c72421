"""Recordings are decoded in processes of their own: the same sound, and a fault costs one recording."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from deployments.audio import decoder_messages as messages
from deployments.audio import isolated_decode
from deployments.audio.byte_pipe import BytePipe
from deployments.audio.decode import AudioDecoder, decode_all
from deployments.audio.decoder_process import DecoderLimits, _Deadline, _RemoteFile
from deployments.audio.encode import open_encoder
from deployments.audio.formats import AudioFormat
from deployments.audio.isolated_decode import DecoderProcesses
from deployments.audio.sound_decoder import Float
from deployments.errors import Failure, MotetError, fail
from deployments.replica import chunker
from deployments.replica.chunker import Chunker, Cut
from deployments.settings import DecoderSettings, RecordingSettings, WindowSettings
from deployments.tasks.voice_activity import VoiceActivityTask
from serve_app.gateway.settings import VoiceSettings
from serve_app.gateway.voice_store import VoiceStore

from . import bad_decoders

RATE = 24_000
SOUND = (0.3 * np.sin(2 * np.pi * 220 * np.arange(RATE * 5 // 2) / RATE)).astype(np.float32)
QUICK = DecoderSettings(memory_mb=64, cpu_s=60, silent_s=60)
IMPATIENT = DecoderSettings(cpu_s=0.2)


def encoded(form: AudioFormat) -> bytes:
    encoder = open_encoder(form, RATE, 1)
    return encoder.encode(SOUND) + encoder.finish()


WAV = encoded("wav")


@pytest.fixture(scope="module")
def processes() -> Iterator[DecoderProcesses]:
    with closing(DecoderProcesses(DecoderSettings())) as processes:
        yield processes


@contextmanager
def decoding_with(decoder: Callable[..., Any], settings: DecoderSettings = QUICK) -> Iterator[DecoderProcesses]:
    """Processes with a decoder of `bad_decoders.py`."""
    with closing(DecoderProcesses(settings, f"{bad_decoders.__name__}:{decoder.__name__}")) as processes:
        yield processes


class Pipe:
    """A recording that comes in small parts and cannot seek."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(min(size, 1000))


def refusal(processes: DecoderProcesses, data: bytes = b"crash") -> Failure:
    with pytest.raises(MotetError) as raised:
        decode_all(data, None, True, 60, processes.open)
    return raised.value.failure


def children(processes: DecoderProcesses) -> list[psutil.Process]:
    return psutil.Process(processes.server_pid).children()


@pytest.mark.parametrize("form", ["wav", "flac", "mp3", "opus", "aac"])
@pytest.mark.parametrize("source", [bytes, Pipe])
@pytest.mark.parametrize("options", [{"mono": True, "sample_rate": 16_000}, {"mono": False, "block_seconds": 0.1}])
def test_the_sound_is_the_same(
    form: AudioFormat, source: Callable[[bytes], Any], options: dict[str, Any], processes: DecoderProcesses
) -> None:
    data = encoded(form)

    def sound(opened: Any) -> tuple[Any, list[Float]]:
        with closing(opened) as decoder:
            return decoder.info, list(decoder)

    here = sound(AudioDecoder(Pipe(data), max_seconds=60, **options))
    there = sound(processes.open(source(data), max_seconds=60, **options))
    assert here[0] == there[0]
    assert [block.shape for block in here[1]] == [block.shape for block in there[1]]
    assert all(map(np.array_equal, here[1], there[1]))


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"", "empty_audio"), (b"\xff\xd8\xff\xe0", "unsupported_audio"), (WAV[:20], "corrupt_audio")],
)
def test_refusals_are_those_of_the_decoder(data: bytes, code: str, processes: DecoderProcesses) -> None:
    with pytest.raises(MotetError) as here:
        decode_all(data, None, True, 60)
    assert refusal(processes, data) == here.value.failure
    assert here.value.failure.code == code


def test_a_recording_that_is_too_long_is_refused(processes: DecoderProcesses) -> None:
    with pytest.raises(MotetError, match="longer than the limit of 1 seconds"):
        decode_all(WAV, None, True, 1, processes.open)
    with pytest.raises(MotetError, match="longer than the limit of 1 seconds"):
        processes.open(Pipe(WAV), mono=True, max_seconds=1, size_bytes=len(WAV))


def test_an_error_of_the_upload_is_raised_unchanged(processes: DecoderProcesses) -> None:
    class Stalled(Pipe):
        def read(self, size: int = -1, /) -> bytes:
            if block := super().read(size):
                return block
            raise fail("timeout", "The upload stopped.", code="upload_stalled")

    decoder = processes.open(Stalled(WAV[:-10_000]), mono=True, max_seconds=60)
    with closing(decoder), pytest.raises(MotetError, match="The upload stopped"):
        list(decoder)


FAULTS = [
    (bad_decoders.crashing, "decoder_crashed", "The file made its decoder crash. Convert it"),
    (bad_decoders.crashing_at_once, "decoder_crashed", "The file made its decoder crash. Convert it"),
    (bad_decoders.endless, "decoder_too_slow", "Decoding the file takes too long. Convert it"),
    (bad_decoders.hungry, "decoder_out_of_memory", "Decoding the file takes too much memory. Convert it"),
]


@pytest.mark.parametrize(("decoder", "code", "message"), FAULTS)
def test_a_fault_is_a_refusal_and_the_next_recording_is_decoded(
    decoder: Callable[..., Any], code: str, message: str
) -> None:
    with decoding_with(decoder, IMPATIENT if code == "decoder_too_slow" else QUICK) as processes:
        for _ in range(2):
            failure = refusal(processes)
            assert (failure.kind, failure.param, failure.code) == ("invalid", "file", code)
            assert failure.message.startswith(message)


def test_a_decoder_that_waits_for_ever_is_ended() -> None:
    with decoding_with(bad_decoders.stuck, DecoderSettings(silent_s=0.2)) as processes:
        assert refusal(processes).code == "decoder_too_slow"


def test_the_limits_hold_where_the_user_has_blocked_signals() -> None:
    blocked = (signal.SIGALRM, signal.SIGPROF, signal.SIGCHLD)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        with decoding_with(bad_decoders.stuck, DecoderSettings(silent_s=0.2)) as processes:
            assert refusal(processes).code == "decoder_too_slow"
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_decoder_that_was_taken_over_cannot_send_anything_but_sound() -> None:
    with decoding_with(bad_decoders.babbling) as processes:
        failure = refusal(processes)
        assert (failure.kind, failure.code) == ("unavailable", "decoder_lost")


def test_a_crash_leaves_other_recordings_alone() -> None:
    with decoding_with(bad_decoders.crashing) as processes:
        other = processes.open(b"fine", mono=True, max_seconds=60)
        assert refusal(processes, b"crash").code == "decoder_crashed"
        assert sum(block.shape[1] for block in other) == bad_decoders.RATE
        other.close()


def test_a_process_that_was_ended_from_outside_is_not_blamed_on_the_recording() -> None:
    with decoding_with(bad_decoders.stuck) as processes:
        decoder = processes.open(b"", mono=True, max_seconds=60)
        for child in children(processes):
            child.kill()
        with pytest.raises(MotetError) as raised:
            list(decoder)
        assert (raised.value.failure.kind, raised.value.failure.code) == ("unavailable", "decoder_lost")


def test_closing_ends_the_process_whatever_it_does() -> None:
    with decoding_with(bad_decoders.stuck) as processes:
        decoder = processes.open(b"", mono=True, max_seconds=60)
        next(iter(decoder))
        running = children(processes)
        assert running
        decoder.close()
        decoder.close()
        assert not psutil.wait_procs(running, timeout=60)[1]


def test_a_lost_server_is_started_again(processes: DecoderProcesses) -> None:
    processes.start()
    lost = processes.server_pid
    assert lost is not None
    os.kill(lost, signal.SIGKILL)
    psutil.Process(lost).wait(60)
    assert decode_all(WAV, None, True, 60, processes.open).shape == (1, len(SOUND))
    assert processes.server_pid != lost


def test_a_server_whose_user_has_gone_ends_with_its_processes() -> None:
    processes = DecoderProcesses(QUICK, f"{bad_decoders.__name__}:stuck")
    decoder = processes.open(b"", mono=True, max_seconds=60)
    running = children(processes)
    processes.close()  # returns when the server has ended
    assert not psutil.wait_procs(running, timeout=60)[1]
    decoder.close()


class HungServer:
    """A process that ends only when its group is killed. `waits` are the limits with which it was waited for."""

    pid = 12345

    def __init__(self) -> None:
        self.waits: list[float | None] = []
        self.killed: list[tuple[int, int]] = []

    def wait(self, timeout: float | None = None) -> int:
        self.waits.append(timeout)
        if not self.killed and timeout is not None:
            raise subprocess.TimeoutExpired("decoder", timeout)
        assert self.killed, "waits for ever"
        return -signal.SIGKILL

    def kill_group(self, pid: int, number: int) -> None:
        self.killed.append((pid, number))


def test_a_server_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    server = HungServer()
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: server)
    monkeypatch.setattr(os, "killpg", server.kill_group)
    processes = DecoderProcesses(QUICK)
    processes.start()
    assert processes.server_pid == server.pid
    processes.close()
    processes.close()
    assert server.killed == [(server.pid, signal.SIGKILL)]
    assert server.waits == [isolated_decode.SERVER_PATIENCE_S] * 2
    assert processes.server_pid is None


def test_a_server_that_stands_still_is_killed_with_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated_decode, "SERVER_PATIENCE_S", 0.2)
    with decoding_with(bad_decoders.stuck) as processes:
        decoder = processes.open(b"", mono=True, max_seconds=60)
        running = children(processes)
        stopped = psutil.Process(processes.server_pid)
        stopped.suspend()
        processes.close()
        assert not psutil.wait_procs([stopped, *running], timeout=60)[1]
        decoder.close()


def test_a_decoder_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTET_API_KEY", "secret")
    with (
        decoding_with(bad_decoders.watched_by) as processes,
        closing(processes.open(b"", mono=True, max_seconds=60)) as decoder,
    ):
        assert "PYTHONPATH" in decoder.info.codec.split()
        assert "MOTET_API_KEY" not in decoder.info.codec.split()


def test_time_in_which_it_waits_for_an_upload_is_free() -> None:
    ours, theirs = socket.socketpair()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGPROF, signal.SIGALRM)}
    deadline = _Deadline(DecoderLimits(2**20, 1e6, 1, 1, 1e6))  # the process of the tests has used much time already
    while_waiting: list[tuple[float, float]] = []

    def upload() -> None:
        assert messages.receive(theirs)[0] == messages.READ
        while_waiting.append(signal.getitimer(signal.ITIMER_REAL))
        messages.send(theirs, messages.DATA, b"sound")

    deadline.start()
    try:
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
        uploading = threading.Thread(target=upload)
        uploading.start()
        assert _RemoteFile(ours, deadline).read(3) == b"sou"
        assert while_waiting == [(0.0, 0.0)]
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    finally:
        deadline.stop()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        uploading.join()
        ours.close()
        theirs.close()


async def test_an_audio_helper_survives_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    with decoding_with(bad_decoders.crashing) as processes:
        monkeypatch.setattr(chunker, "shared_decoder_processes", lambda _: processes)
        helper = Chunker(RecordingSettings())

        async def found(data: bytes) -> Cut | Failure | None:
            await helper.open(data.decode(), VoiceActivityTask(), WindowSettings())
            await helper.feed(data.decode(), data, True)
            answer = await helper.next(data.decode())
            await helper.close(data.decode())
            return answer

        crashed = await found(b"crash")
        assert isinstance(crashed, Failure)
        assert crashed.code == "decoder_crashed"
        assert isinstance(await found(b"fine"), Cut)


def test_an_uploaded_voice_is_decoded_apart(tmp_path: Path) -> None:
    with decoding_with(bad_decoders.crashing) as processes:
        store = VoiceStore(VoiceSettings(folder=str(tmp_path)), open_decoder=processes.open)
        with pytest.raises(MotetError) as raised:
            store.add("everyone", b"crash", "Ada", "I agree.", None)
    assert (raised.value.failure.code, raised.value.failure.param) == ("decoder_crashed", "audio_sample")


async def test_an_upload_that_is_aborted_ends_the_decoding(processes: DecoderProcesses) -> None:
    pipe = BytePipe(2**20, 60)
    await pipe.write(WAV[:1000])
    pipe.abort()
    with pytest.raises(MotetError, match="upload stopped"):
        processes.open(pipe, mono=True, max_seconds=60)
