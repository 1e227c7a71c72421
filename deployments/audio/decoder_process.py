"""The process in which recordings are decoded, so that a crash or an endless loop of FFmpeg costs one recording.

`python -m deployments.audio.decoder_process CONTROL DECODER LIMITS` waits at the socket `CONTROL` (a descriptor) for
recordings, and forks a process for each: that takes milliseconds, because everything is imported already. With each come two
sockets. On the connection the recording goes in and its sound comes out (`decoder_messages.py`). When the other end of the
lifeline is closed, the recording's process is killed; when the process has ended, the lifeline carries its exit status.

The kernel enforces the limits, so that they hold in native code: timers of processor time and of real time, whose signals
end the process, and a limit of its memory (which macOS does not enforce).
"""

from __future__ import annotations

import gc
import json
import os
import pkgutil
import resource
import selectors
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deployments.audio import decoder_messages as messages
from deployments.audio.file_source import MOST_SPOOLED_BYTES
from deployments.errors import Failure, MotetError

STATUS = struct.Struct("!i")
"""The exit status of a recording's process: negative for the signal that ended it."""
MOST_FILES = 16
HIGHEST_DESCRIPTOR = 4096

OpenDecoder = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class DecoderLimits:
    """What one recording may take. Processor time is `cpu_s`, and more for each MiB that was read and each second of sound
    that was made. `silent_s` is the real time without a message to the other side."""

    memory_bytes: int
    cpu_s: float
    cpu_s_per_mib: float
    cpu_s_per_second: float
    silent_s: float


class DecoderServer:
    """Forks a process for each recording, kills those that are no longer needed, and reports how they ended."""

    def __init__(self, control: socket.socket, decoder: OpenDecoder, limits: DecoderLimits) -> None:
        self._control = control
        self._decoder = decoder
        self._limits = limits
        self._lifelines: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Returns when the other side is gone, after it has killed what still runs."""
        woken, waker = socket.socketpair()
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(self._control, selectors.EVENT_READ, self._begin)
        self._selector.register(woken, selectors.EVENT_READ, lambda: self._reap(woken))
        try:
            while True:
                for key, _ in self._selector.select():
                    key.data()
        except EOFError:
            for pid in self._lifelines:
                os.kill(pid, signal.SIGKILL)

    def _begin(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._control, 1, 2)
        if not data:
            raise EOFError
        connection, lifeline = (socket.socket(fileno=each) for each in descriptors)
        with connection:
            try:
                pid = os.fork()
            except OSError:  # too many processes; the other side finds both sockets closed
                lifeline.close()
                return
            if not pid:
                self._decode(connection)
        self._lifelines[pid] = lifeline
        self._selector.register(lifeline, selectors.EVENT_READ, lambda: self._kill(pid))

    def _decode(self, connection: socket.socket) -> None:
        """The whole life of a recording's process."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            number = connection.fileno()
            os.closerange(3, number)
            os.closerange(number + 1, HIGHEST_DESCRIPTOR)
            _restrict(self._limits)
            _decode(connection, self._decoder, _Deadline(self._limits))
        finally:
            os._exit(0)

    def _kill(self, pid: int) -> None:
        if lifeline := self._lifelines.get(pid):  # it has not ended, so the number is still its own
            self._selector.unregister(lifeline)
            os.kill(pid, signal.SIGKILL)

    def _reap(self, woken: socket.socket) -> None:
        woken.recv(4096)
        while self._lifelines:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            lifeline = self._lifelines.pop(pid)
            if lifeline in self._selector.get_map():
                self._selector.unregister(lifeline)
            try:
                lifeline.send(STATUS.pack(os.waitstatus_to_exitcode(status)))
            except OSError:
                pass  # nobody wants to know
            finally:
                lifeline.close()


class _Deadline:
    """The timers whose signals end the process while it decodes. Time in which it waits for the other side is free."""

    def __init__(self, limits: DecoderLimits) -> None:
        self._limits = limits
        self._allowed_s = limits.cpu_s
        for number in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)

    def allow(self, read_bytes: int = 0, sound_s: float = 0.0) -> None:
        """More processor time, for what was read or made."""
        limits = self._limits
        self._allowed_s += read_bytes / 2**20 * limits.cpu_s_per_mib + sound_s * limits.cpu_s_per_second

    def start(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, max(self._allowed_s - time.process_time(), 0.001))
        signal.setitimer(signal.ITIMER_REAL, self._limits.silent_s)

    @staticmethod
    def stop() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)


class _RemoteFile:
    """The recording, whose bytes come over the connection as they are needed."""

    def __init__(self, connection: socket.socket, deadline: _Deadline) -> None:
        self._connection = connection
        self._deadline = deadline
        self._held = memoryview(b"")
        self._ended = False

    def read(self, size: int) -> bytes:
        """See `ByteSource.read`."""
        if not self._held and not self._ended:
            self._held = memoryview(self._received())
            self._ended = not self._held
        taken, self._held = bytes(self._held[:size]), self._held[size:]
        return taken

    def _received(self) -> bytearray:
        self._deadline.stop()
        messages.send(self._connection, messages.READ)
        kind, data = messages.receive(self._connection)
        if kind != messages.DATA:
            raise messages.MalformedMessageError(f"a message of kind {kind!r}")
        self._deadline.allow(read_bytes=len(data))
        self._deadline.start()
        return data


def _decode(connection: socket.socket, decoder: OpenDecoder, deadline: _Deadline) -> None:
    try:
        _, wanted = messages.receive(connection)
        arguments = json.loads(wanted)
        deadline.start()
        for sound_s, message in _sound(decoder(_RemoteFile(connection, deadline), **arguments), arguments):
            deadline.stop()
            messages.send(connection, *message)
            deadline.allow(sound_s=sound_s)
            deadline.start()
        deadline.stop()
        messages.send(connection, messages.END)
    except (OSError, EOFError):
        return  # the other side is gone
    except (MotetError, MemoryError) as error:
        deadline.stop()
        messages.send(connection, messages.FAILURE, json.dumps(asdict(_failure(error))).encode())


def _sound(decoder: Any, arguments: dict[str, Any]) -> Any:
    yield 0.0, (messages.INFO, json.dumps(asdict(decoder.info)).encode())
    rate = arguments["sample_rate"] or decoder.info.sample_rate
    for block in decoder:
        samples = np.ascontiguousarray(block, np.float32)
        yield samples.shape[1] / rate, (messages.BLOCK, samples.data.cast("B"))


def _failure(error: MotetError | MemoryError) -> Failure:
    if isinstance(error, MotetError):
        return error.failure
    remedy = "Convert it to WAV or FLAC, and send it again."
    cause = "Decoding the file takes too much memory."
    return Failure("invalid", cause, remedy, param="file", code="decoder_out_of_memory")


def _restrict(limits: DecoderLimits) -> None:
    """No core dump has the recording, and memory and files are bounded."""
    bounds = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 2 * MOST_SPOOLED_BYTES,
        resource.RLIMIT_NOFILE: MOST_FILES,
        resource.RLIMIT_DATA: _data_bytes() + limits.memory_bytes,
    }
    for which, bound in bounds.items():
        _, hard = resource.getrlimit(which)
        resource.setrlimit(which, (bound, bound) if hard == resource.RLIM_INFINITY or bound <= hard else (hard, hard))


def _data_bytes() -> int:
    """What counts towards `RLIMIT_DATA` already; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    except OSError:
        return 0


def main() -> None:
    """The program; see the head of this file."""
    control, decoder, limits = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whatever the process that starts this one has blocked
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the process that uses this one decides
    opened = pkgutil.resolve_name(decoder)
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy every page
    DecoderServer(socket.socket(fileno=int(control)), opened, DecoderLimits(**json.loads(limits))).run()


if __name__ == "__main__":
    main()
