"""Small or odd files that would make a careless decoder take hours or gigabytes."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Mapping

import av
import numpy as np

from deployments.engines.protocols import Samples
from serve_app.bench.muxed_sound import encode_into, mono_track, muxed

LONG_HOURS = 5
"""More than the service accepts."""
RATE = 24_000


def bombs() -> Mapping[str, Callable[[], bytes]]:
    """What makes each file, by a description."""
    return {
        f"{LONG_HOURS} hours of silence as Opus": lambda: _silence("ogg", "libopus", LONG_HOURS),
        f"{LONG_HOURS} hours of silence as FLAC": lambda: _silence("flac", "flac", LONG_HOURS),
        "WAV at 1 Hz": lambda: _wav(rate=1),
        "WAV at 768 kHz": lambda: _wav(rate=768_000),
        "WAV with 65,535 channels": lambda: _wav(channels=65_535),
        "WAV that states 4 GB": lambda: _wav(stated=0xFFFFFFFF),
        "WAV with frames of 0 bytes": lambda: _wav(channels=0),
        "FLAC that states 2^36 samples": _endless_flac,
        "MP3 with an ID3 tag that states 256 MB": _tagged_mp3,
        "MP4 with an 8K video track": _wide_video,
        "MP4 whose table states 2^31 samples": _wide_table,
        "WebM with 500 tracks": _many_tracks,
    }


def _silence(container: str, codec: str, hours: int) -> bytes:
    """The packet of a silent second, again and again with later times: an encoder would take minutes."""
    file = io.BytesIO()
    rate = 48_000
    with av.open(file, "w", format=container) as output:
        stream = mono_track(output, codec, rate)
        stream.options = {"frame_duration": "60"} if codec == "libopus" else {}
        form = "s16" if codec == "flac" else "flt"
        silence = np.zeros((1, rate), np.int16 if codec == "flac" else np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format=form, layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        packets = [
            packet for packet in [*stream.encode(frame), *stream.encode(None)] if packet.size and packet.duration
        ]
        whole = packets[len(packets) // 2]
        data, length = bytes(whole), whole.duration
        assert length is not None
        for number in range(hours * 3600 * rate // length):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, whole.time_base
            packet.pts = packet.dts = number * length
            packet.duration = length
            output.mux(packet)
    return file.getvalue()


def _wav(rate: int = 16_000, channels: int = 1, stated: int | None = None) -> bytes:
    sound = bytes(200_000)
    size = len(sound) if stated is None else stated
    block = 2 * channels % 2**16
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * block % 2**32, block, 16)
    whole = min(36 + size, 0xFFFFFFFF)
    return (
        b"RIFF"
        + struct.pack("<I", whole)
        + b"WAVEfmt "
        + struct.pack("<I", 16)
        + form
        + b"data"
        + struct.pack("<I", size)
        + sound
    )


def _endless_flac() -> bytes:
    data = bytearray(_small("flac", "flac"))
    data[21] |= 0x0F  # the upper four of the 36 bits
    data[22:26] = b"\xff" * 4
    return bytes(data)


def _tagged_mp3() -> bytes:
    return b"ID3\x04\x00\x00" + b"\x7f" * 4 + bytes(2**20) + _small("mp3", "libmp3lame")


def _wide_table() -> bytes:
    data = bytearray(_small("mp4", "aac"))
    at = data.index(b"stsz") + 8
    data[at : at + 8] = struct.pack(">II", 1, 2**31 - 1)
    return bytes(data)


def _small(container: str, codec: str) -> bytes:
    return muxed(container, codec, _tone(), RATE)


def _tone() -> Samples:
    """A quarter of a second of sound."""
    return (0.3 * np.sin(np.arange(RATE // 4) / 20)).astype(np.float32)


def _wide_video() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        video = output.add_stream("mpeg4", rate=1)
        assert isinstance(video, av.VideoStream)
        video.width, video.height, video.pix_fmt = 7680, 4320, "yuv420p"
        sound = mono_track(output, "aac", RATE)
        for _ in range(2):
            frame = av.VideoFrame(7680, 4320, "yuv420p")
            for packet in video.encode(frame):
                output.mux(packet)
        for packet in video.encode(None):
            output.mux(packet)
        encode_into(output, sound, _tone())
    return file.getvalue()


def _many_tracks() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        tracks = [mono_track(output, "pcm_s16le", RATE) for _ in range(500)]
        for track in tracks:
            encode_into(output, track, _tone())
    return file.getvalue()
