"""The length that a recording states, so that one that is far too long is refused before it is decoded.

A file may state anything. A length counts only if the file is large enough to hold it: writers of live streams leave the
length open, or write the largest number that fits. A file that states too little is stopped where its sound passes the limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from av.audio.stream import AudioStream
from av.container import InputContainer

MOST_SECONDS_PER_BYTE = 2.0
"""The highest compression of any codec that is read: FLAC and Vorbis code up to 16 s of silence in about 10 bytes."""
MICROSECONDS = 1_000_000

_MPEG_1, _MONO = 3, 3
_MPEG_RATES = (44_100, 48_000, 32_000)
_MPEG_RATE_DIVISORS = {_MPEG_1: 1, 2: 2, 0: 4}

_XING_FIELDS = ((1, 4), (2, 4), (4, 100), (8, 4))
"""Bits of the fields that an MP3's header has, and their sizes: frames, bytes, a table, a quality."""
_FRAME_BYTES = 192

COMPRESSED_BYTES_PER_SECOND = 16_000
"""Of a recording at 128 kbit/s."""
LEAST_WAV_BYTES_PER_SECOND, MOST_WAV_BYTES_PER_SECOND = 4_000, 400_000
"""From 8-bit mono at the lowest rate to 32-bit stereo at 48 kHz."""

MOST_UNUSUAL = 20.0
"""A compressed recording may be this many times longer or shorter than one of its size at 128 kbit/s; one that states more
lies, or is nearly silent."""

OPEN_WAV_BYTES = 2**31 - 2**16
"""Writers of WAVs that do not know the length state about this or twice this many bytes."""

ReadAt = Callable[[int, int], bytes]
"""Reads up to a number of bytes from an offset on."""


def stated_seconds(demuxer: str, container: InputContainer, stream: AudioStream, read_at: ReadAt) -> float | None:
    """The length that a file states, in seconds; None if it states none. `demuxer` is FFmpeg's name of the container."""
    match demuxer:
        case "flac":
            return flac_seconds(read_at(0, 26))
        case "mp3":
            return xing_seconds(first_mp3_frame(read_at))
        case "matroska":
            return None if container.duration is None else container.duration / MICROSECONDS
        case "wav":
            return wav_seconds(read_at(0, 512))
        case "ogg" | "mov":
            return _stream_seconds(stream)
    return None  # an AAC stream has no header, and FFmpeg estimates from its first bytes


def credible_seconds(stated: float | None, demuxer: str, stream: AudioStream, size_bytes: int) -> float | None:
    """The length of a file of `size_bytes`, in seconds: as it states, if it can be so long; of a WAV, what it has room for.
    None if neither is known."""
    if demuxer == "wav" and (bit_rate := stream.codec_context.bit_rate):
        return min(stated or math.inf, size_bytes * 8 / bit_rate)
    return stated if stated is not None and 0 < stated <= size_bytes * MOST_SECONDS_PER_BYTE else None


def estimated_seconds(head: bytes, size_bytes: int) -> float:
    """About how long an encoded recording of `size_bytes` is, in seconds, before it is decoded: a WAV by the bytes per second
    in its header, a FLAC or MP3 as it states if that is credible, and any other as one at 128 kbit/s. `head` is its first 64
    bytes or more."""
    per_second = COMPRESSED_BYTES_PER_SECOND
    if head[:4] == b"RIFF" and head[8:16] == b"WAVEfmt ":
        stated = int.from_bytes(head[28:32], "little")
        per_second = min(max(stated, LEAST_WAV_BYTES_PER_SECOND), MOST_WAV_BYTES_PER_SECOND)
    seconds = size_bytes / per_second
    told = flac_seconds(head[:26]) if head[:4] == b"fLaC" else xing_seconds(head)
    return min(max(told, seconds / MOST_UNUSUAL), seconds * MOST_UNUSUAL) if told else seconds


def _stream_seconds(stream: AudioStream) -> float | None:
    return None if stream.duration is None or stream.time_base is None else float(stream.duration * stream.time_base)


def wav_seconds(head: bytes) -> float | None:
    """The length in the header of a WAV, in seconds; None if the writer left it open, or the data begins after `head`. FFmpeg
    gives less for a file that was cut off."""
    at, per_second = 12, 0
    while at + 8 <= len(head):
        name, size = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        if name == b"fmt ":
            per_second = int.from_bytes(head[at + 16 : at + 20], "little")
        if name == b"data":
            return size / per_second if per_second and 0 < size < OPEN_WAV_BYTES else None
        at += 8 + size + size % 2
    return None


def flac_seconds(head: bytes) -> float | None:
    """The length in STREAMINFO (RFC 9639 section 8.2), in seconds; None if the writer did not know it."""
    fields = int.from_bytes(head[18:26], "big")
    rate, samples = fields >> 44, fields & (2**36 - 1)
    return samples / rate if len(head) == 26 and rate and samples else None


def xing_seconds(frame: bytes) -> float | None:
    """The length in the header that encoders put into the first frame of an MP3 with a variable ("Xing") or a constant bit
    rate ("Info"), in seconds; None without such a header. `frame` is the beginning of that frame."""
    header = _xing_header(frame)
    return header.samples / header.rate if header else None


def mp3_end(frame: bytes) -> Mp3End | None:
    """Where the sound of an MP3 ends, if its first frame tells what the encoder added; `frame` is the beginning of that
    frame, 192 bytes or more."""
    header = _xing_header(frame)
    if header is None or len(header.encoder) < 24:
        return None
    added = int.from_bytes(header.encoder[21:24], "big")
    before, after = added >> 12, added & 0xFFF
    return Mp3End(header.samples - before - after, after)


@dataclass(frozen=True, slots=True)
class Mp3End:
    """The samples of an MP3 without those that its encoder added, and how many it added at the end."""

    samples: int
    padding: int


@dataclass(frozen=True, slots=True)
class _XingHeader:
    """Samples of all frames at `rate` Hz, and what follows for the encoder (LAME's extension)."""

    samples: int
    rate: int
    encoder: bytes


def _xing_header(frame: bytes) -> _XingHeader | None:
    if len(frame) < 4 or frame[0] != 0xFF:
        return None
    version, rate_index, mono = (frame[1] >> 3) & 3, (frame[2] >> 2) & 3, frame[3] >> 6 == _MONO
    if version not in _MPEG_RATE_DIVISORS or rate_index == 3:
        return None
    rate = _MPEG_RATES[rate_index] // _MPEG_RATE_DIVISORS[version]
    samples_per_frame, side_bytes = (1152, 17 if mono else 32) if version == _MPEG_1 else (576, 9 if mono else 17)
    tag = frame[4 + side_bytes :]
    if len(tag) < 12 or tag[:4] not in (b"Xing", b"Info") or not tag[7] & 1:
        return None
    size = 8 + sum(size for bit, size in _XING_FIELDS if tag[7] & bit)
    return _XingHeader(int.from_bytes(tag[8:12], "big") * samples_per_frame, rate, tag[size:])


def first_mp3_frame(read_at: ReadAt) -> bytes:
    """The beginning of the first frame of an MP3."""
    return read_at(_after_id3(read_at(0, 10)), _FRAME_BYTES)


def _after_id3(head: bytes) -> int:
    """Where the sound of an MP3 begins: after its ID3v2 tag, whose size has seven bits a byte."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
