"""Messages between a decoder process and the process that uses it: a kind, a length, and that many bytes.

Metadata is JSON and sound is raw float32. Nothing here can run code, because a damaged recording may have taken over the
process that sends.
"""

from __future__ import annotations

import socket
import struct

OPEN, DATA = b"O", b"D"
"""To the decoder: the arguments of an `AudioDecoder` as JSON; the next bytes of the recording, none at its end."""
READ, INFO, BLOCK, END, FAILURE = b"R", b"I", b"B", b"E", b"F"
"""From the decoder: it needs up to a number of bytes; an `AudioInfo` as JSON; a block of samples; the end; a `Failure` as
JSON."""

MOST_BYTES = 2**26
"""The longest message. A block of one second at 192 kHz in 8 channels has 6 MB."""
READ_BYTES = 2**18

_HEADER = struct.Struct("!cI")


class MalformedMessageError(Exception):
    """The other side sent what is not such a message."""


def send(connection: socket.socket, kind: bytes, payload: bytes | memoryview = b"") -> None:
    """Sends one message. Raises `OSError`."""
    connection.sendall(_HEADER.pack(kind, len(payload)))
    if payload:
        connection.sendall(payload)


def receive(connection: socket.socket) -> tuple[bytes, bytearray]:
    """The kind and the bytes of the next message. Raises `EOFError` at the end, `MalformedMessageError`, and `OSError`."""
    kind, size = _HEADER.unpack(_exactly(connection, _HEADER.size))
    if size > MOST_BYTES:
        raise MalformedMessageError(f"a message of {size} bytes")
    return kind, _exactly(connection, size)


def _exactly(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        count = connection.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return data
