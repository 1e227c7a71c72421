"""Decodes recordings in processes of their own (`decoder_process.py`): whatever FFmpeg does, only that recording is lost."""

from __future__ import annotations

import functools
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from deployments.audio import decoder_messages as messages
from deployments.audio.decoder_process import STATUS, DecoderLimits
from deployments.audio.file_source import ByteSource
from deployments.audio.sound_decoder import BLOCK_SECONDS, AudioInfo, Float
from deployments.errors import Failure, MotetError, fail
from deployments.settings import DecoderSettings

logger = logging.getLogger(__name__)

AUDIO_DECODER = "deployments.audio.decode:AudioDecoder"
MODULE = "deployments.audio.decoder_process"
ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""The variables that decoder processes get: none with a key or a token."""
MARGIN_S = 30.0
"""The kernel ends a process that decodes for too long without a sign. This much later its user no longer waits."""
STATUS_PATIENCE_S = 5.0
SERVER_PATIENCE_S = 5.0
"""How long the server of decoder processes may take to accept a recording, or to end. Then it is killed."""
TIMERS = (signal.SIGPROF, signal.SIGALRM, signal.SIGXCPU)

_INFO = TypeAdapter(AudioInfo)
_FAILURE = TypeAdapter(Failure)


class DecoderProcesses:
    """Starts a process for each recording. Safe for threads.

    `decoder` names what is called there, with the arguments of an `AudioDecoder`. The server that forks the processes is
    started when the first one is needed, and again if it is lost.
    """

    def __init__(self, settings: DecoderSettings, decoder: str = AUDIO_DECODER) -> None:
        self._settings = settings
        self._decoder = decoder
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server, so that the first recording does not wait for it. Does not wait."""
        with self._lock:
            if self._control is None:
                self._start()

    def open(
        self,
        file: ByteSource | bytes,
        *,
        sample_rate: int | None = None,
        mono: bool,
        max_seconds: float,
        block_seconds: float = BLOCK_SECONDS,
        size_bytes: int | None = None,
    ) -> IsolatedDecoder:
        """What an `AudioDecoder` gives and raises, from another process, which reads `file` only forwards.

        Raises besides: invalid with the code `decoder_crashed`, `decoder_too_slow` or `decoder_out_of_memory`, and
        unavailable with `decoder_lost` if the process was ended from outside; so does the iteration.
        """
        source = io.BytesIO(file) if isinstance(file, bytes) else file
        arguments = {
            "sample_rate": sample_rate,
            "mono": mono,
            "max_seconds": max_seconds,
            "block_seconds": block_seconds,
            "size_bytes": len(file) if isinstance(file, bytes) else size_bytes,  # a pipe has no size
        }
        connection, lifeline = self._begun()
        connection.settimeout(self._settings.silent_s + MARGIN_S)
        return IsolatedDecoder(source, arguments, connection, lifeline)

    def close(self) -> None:
        """Ends the server and all its processes. Safe to call twice."""
        with self._lock:
            self._end()

    @property
    def server_pid(self) -> int | None:
        """The process number of the server, if it was started."""
        return self._server.pid if self._server else None

    def _begun(self) -> tuple[socket.socket, socket.socket]:
        """The connection to the process of a new recording, and its lifeline."""
        connection, theirs = socket.socketpair()
        lifeline, their_lifeline = socket.socketpair()
        try:
            with theirs, their_lifeline, self._lock:
                self._send([theirs.fileno(), their_lifeline.fileno()])
        except BaseException:
            connection.close()
            lifeline.close()
            raise
        return connection, lifeline

    def _send(self, descriptors: list[int]) -> None:
        """Gives the server what a new process needs. It is started if there is none."""
        try:
            socket.send_fds(self._control or self._start(), [b"\0"], descriptors)
        except OSError:
            logger.warning("The server of decoder processes was lost, and is started again.")
            self._end()
            socket.send_fds(self._start(), [b"\0"], descriptors)

    def _start(self) -> socket.socket:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(SERVER_PATIENCE_S)
        settings = self._settings
        limits = DecoderLimits(
            memory_bytes=settings.memory_mb * 2**20,
            cpu_s=settings.cpu_s,
            cpu_s_per_mib=settings.cpu_s_per_mb,
            cpu_s_per_second=settings.cpu_s_per_minute / 60,
            silent_s=settings.silent_s,
        )
        arguments = [str(theirs.fileno()), self._decoder, json.dumps(asdict(limits))]
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-m", MODULE, *arguments],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        return self._control

    def _end(self) -> None:
        if self._control is not None and self._server is not None:
            self._control.close()
            _ended_in_time(self._server)
        self._control = self._server = None


def _ended_in_time(server: subprocess.Popen[bytes]) -> None:
    """Waits until the server has ended by itself, and kills it with its processes if it does not."""
    try:
        server.wait(SERVER_PATIENCE_S)
    except subprocess.TimeoutExpired:
        logger.warning("The server of decoder processes did not end in %g s, and is killed.", SERVER_PATIENCE_S)
        os.killpg(server.pid, signal.SIGKILL)  # the server leads a group of its own, and has not been waited for
        with suppress(subprocess.TimeoutExpired):
            server.wait(SERVER_PATIENCE_S)


def _environment() -> dict[str, str]:
    """Without secrets; with one thread, since a process with several must not be forked."""
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}


class IsolatedDecoder:
    """One recording in a process of its own: `info`, then one pass over its sound, as from an `AudioDecoder`."""

    def __init__(
        self, file: ByteSource, arguments: dict[str, Any], connection: socket.socket, lifeline: socket.socket
    ) -> None:
        self._file = file
        self._connection = connection
        self._lifeline = lifeline
        try:
            self._send(messages.OPEN, json.dumps(arguments).encode())
            self.info = self._info()
        except BaseException:
            self.close()
            raise
        self._channels = 1 if arguments["mono"] else self.info.channels

    def __iter__(self) -> Iterator[Float]:
        """The sound. It can be iterated once."""
        while (payload := self._next(messages.BLOCK)) is not None:
            if len(payload) % (4 * self._channels):
                raise self._lost("it sent a part of a sample")
            yield np.frombuffer(payload, np.float32).reshape(self._channels, -1)

    def close(self) -> None:
        """Ends the process. Safe to call twice. The caller's file stays open."""
        self._connection.close()
        self._lifeline.close()

    def _info(self) -> AudioInfo:
        payload = self._next(messages.INFO)
        try:
            return _INFO.validate_json(bytes(payload or b""))
        except ValidationError as error:
            raise self._lost(f"it sent another description: {error}") from error

    def _next(self, wanted: bytes) -> bytearray | None:
        """The next message of that kind; None at the end. Reads the recording for the process until then."""
        while True:
            kind, payload = self._received()
            if kind == messages.READ:
                self._send(messages.DATA, self._file.read(messages.READ_BYTES))
            elif kind == wanted:
                return payload
            elif kind == messages.END:
                return None
            elif kind == messages.FAILURE:
                raise self._failure(payload)
            else:
                raise self._lost(f"it sent a message of kind {kind!r}")

    def _failure(self, payload: bytearray) -> MotetError:
        try:
            return MotetError(_FAILURE.validate_json(bytes(payload)))
        except ValidationError as error:
            return self._lost(f"it sent another failure: {error}")

    def _send(self, kind: bytes, payload: bytes) -> None:
        try:
            messages.send(self._connection, kind, payload)
        except OSError:
            raise self._ended() from None

    def _received(self) -> tuple[bytes, bytearray]:
        try:
            return messages.receive(self._connection)
        except (OSError, EOFError):
            raise self._ended() from None
        except messages.MalformedMessageError as error:
            raise self._lost(str(error)) from error

    def _ended(self) -> MotetError:
        """Why the process has ended, or does not answer."""
        status = self._status()
        self.close()
        if status is None or status == -signal.SIGKILL:
            return _gone("The process that decoded the file was ended.", f"exit status {status}")
        named = signal.Signals(-status).name if status < 0 else f"status {status}"
        logger.warning("A recording was refused because its decoder ended with %s.", named)
        remedy = "Convert it to WAV or FLAC, and send it again."
        if -status in TIMERS:
            return fail("invalid", "Decoding the file takes too long.", remedy, param="file", code="decoder_too_slow")
        return fail("invalid", "The file made its decoder crash.", remedy, param="file", code="decoder_crashed")

    def _status(self) -> int | None:
        """The exit status of the process; None if the server that started it is gone, or the process does not end."""
        self._connection.close()
        self._lifeline.settimeout(STATUS_PATIENCE_S)
        try:
            reported = self._lifeline.recv(STATUS.size)
        except OSError:
            return None
        return int(STATUS.unpack(reported)[0]) if len(reported) == STATUS.size else None

    def _lost(self, why: str) -> MotetError:
        """For a process that no longer does what it should."""
        self.close()
        logger.warning("A decoder process was ended because %s.", why)
        return _gone("The process that decoded the file failed.", why)


def _gone(cause: str, detail: str) -> MotetError:
    return fail("unavailable", cause, "Send the file again.", param="file", code="decoder_lost", detail=detail)


@functools.cache
def shared_decoder_processes(settings: DecoderSettings) -> DecoderProcesses:
    """The same for everything in this process that decodes clients' recordings."""
    return DecoderProcesses(settings)
