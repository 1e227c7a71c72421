"""Decoders that do what a bug in native code may do, for tests of the processes that contain them."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from deployments.audio.file_source import ByteSource
from deployments.audio.sound_decoder import AudioInfo, Float

RATE = 16_000


class FaultyDecoder:
    """A second of silence, then the fault."""

    def __init__(self, fault: Callable[[], object], codec: str = "flac") -> None:
        self.info = AudioInfo(RATE, 1, codec)
        self._fault = fault

    def __iter__(self) -> Iterator[Float]:
        yield np.zeros((1, RATE), np.float32)
        self._fault()


def crashing(file: ByteSource, **_: Any) -> FaultyDecoder:
    """Writes to memory that is not its own, if the recording says so."""
    wanted = file.read(5)
    return FaultyDecoder((lambda: ctypes.memset(1, 0, 1)) if wanted == b"crash" else bool)


def crashing_at_once(file: ByteSource, **_: Any) -> FaultyDecoder:
    """Ends in the middle of opening, as after a failed assertion."""
    file.read(5)
    os.abort()


def endless(*_: Any, **__: Any) -> FaultyDecoder:
    """Computes without an end."""

    def turn() -> None:
        while True:
            pass

    return FaultyDecoder(turn)


def stuck(*_: Any, **__: Any) -> FaultyDecoder:
    """Waits without an end."""
    return FaultyDecoder(signal.pause)


def hungry(*_: Any, **__: Any) -> FaultyDecoder:
    """Takes more and more memory."""

    def eat() -> None:
        held = []
        while True:
            held.append(bytearray(2**24))

    return FaultyDecoder(eat)


def babbling(*_: Any, **__: Any) -> FaultyDecoder:
    """Writes to the connection what is not a message, as after an overwritten buffer."""

    def babble() -> None:
        for number in range(3, 16):
            if _is_socket(number):
                socket.socket(fileno=number).send(b"B\xff\xff\xff\xff" + bytes(100))
        signal.pause()

    return FaultyDecoder(babble)


def watched_by(*_: Any, **__: Any) -> FaultyDecoder:
    """Names the variables of its environment as its codec."""
    return FaultyDecoder(bool, " ".join(os.environ))


def _is_socket(number: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:
        return False
