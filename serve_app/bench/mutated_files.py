"""Recordings of every container that is read, and damaged ones: their headers and lengths are changed where they are."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import soundfile

from deployments.audio.encode import open_encoder
from deployments.audio.formats import AudioFormat
from serve_app.bench.muxed_sound import muxed

RATE = 24_000
SECONDS = 0.4

MARKERS: Mapping[str, tuple[bytes, ...]] = {
    "wav": (b"RIFF", b"fmt ", b"data"),
    "flac": (b"fLaC", b"\xff\xf8"),
    "mp3": (b"\xff\xfb", b"\xff\xf3", b"Xing", b"Info", b"LAME", b"ID3"),
    "ogg": (b"OggS", b"OpusHead", b"OpusTags", b"\x01vorbis", b"\x05vorbis", b"\x7fFLAC"),
    "aac": (b"\xff\xf1",),
    "mp4": (
        *(b"ftyp", b"moov", b"mvhd", b"trak", b"mdhd", b"stsd", b"mp4a", b"esds"),
        *(b"stts", b"stsc", b"stsz", b"stco", b"elst", b"mdat"),
    ),
    "webm": (b"\x1aE\xdf\xa3", b"\x18S\x80g", b"\x15I\xa9f", b"\x16T\xaek", b"\xae", b"\xe1", b"\x1fC\xb6u", b"\xa3"),
}
"""What stands before the fields that decide how the rest of a file is read, for each kind of container."""

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)

Generator = np.random.Generator
Mutation = Callable[[bytearray, bytes, Generator], None]
"""Changes a file; the bytes are of another container."""


WRITTEN: Mapping[str, AudioFormat] = {
    "wav 16-bit": "wav",
    "wav mu-law": "wav_mulaw",
    "flac": "flac",
    "mp3": "mp3",
    "ogg Opus": "opus",
    "aac": "aac",
}
MUXED = {
    "wav float": ("wav", "pcm_f32le"),
    "ogg FLAC": ("ogg", "flac"),
    "mp4": ("mp4", "aac"),
    "webm": ("webm", "libopus"),
}


def seeds() -> Mapping[str, bytes]:
    """A short recording of each container and codec, by names that begin with the kind of container."""
    return {
        **{name: _encoded(form) for name, form in WRITTEN.items()},
        **{name: muxed(container, codec, _tone(), RATE) for name, (container, codec) in MUXED.items()},
        "ogg Vorbis": _vorbis(),
    }


def mutated(seed: bytes, kind: str, other: bytes, generator: Generator) -> bytes:
    """A damaged copy: one to three changes, half of them in the fields behind the markers of the container."""
    data = bytearray(seed)
    for _ in range(generator.integers(1, 4)):
        if not data:
            break
        if generator.random() < 0.5:
            _change_field(data, kind, generator)
        else:
            MUTATIONS[generator.integers(len(MUTATIONS))](data, other, generator)
    return bytes(data)


def _encoded(form: AudioFormat) -> bytes:
    encoder = open_encoder(form, RATE, 1)
    return encoder.encode(_tone()) + encoder.finish()


def _vorbis() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, _tone(), RATE, format="OGG", subtype="VORBIS")
    return file.getvalue()


def _tone() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    times = np.arange(round(SECONDS * RATE)) / RATE
    noise = np.random.default_rng(0).standard_normal(len(times))
    return (0.3 * np.sin(2 * np.pi * 220 * times) + 0.01 * noise).astype(np.float32)


def _change_field(data: bytearray, kind: str, generator: Generator) -> None:
    """Overwrites one to eight bytes beside a marker with an extreme number."""
    places = [place for marker in MARKERS[kind] for place in _places(data, marker)]
    if not places:
        return
    at = places[generator.integers(len(places))] + int(generator.integers(-8, 32))
    size = int(generator.choice((1, 2, 4, 8)))
    number = EXTREMES[generator.integers(len(EXTREMES))] if generator.random() < 0.7 else int(generator.integers(2**32))
    order = "big" if generator.random() < 0.5 else "little"
    at = min(max(at, 0), len(data) - 1)
    data[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, order)


def _places(data: bytearray, marker: bytes) -> Iterator[int]:
    at = data.find(marker)
    while at >= 0:
        yield at
        at = data.find(marker, at + 1)


def _flip_bits(data: bytearray, _: bytes, generator: Generator) -> None:
    for at in generator.integers(len(data), size=generator.integers(1, 9)):
        data[at] ^= 1 << int(generator.integers(8))


def _cut_off(data: bytearray, _: bytes, generator: Generator) -> None:
    del data[int(generator.integers(len(data))) :]


def _leave_out(data: bytearray, _: bytes, generator: Generator) -> None:
    start = int(generator.integers(len(data)))
    del data[start : start + int(generator.integers(1, 257))]


def _repeat(data: bytearray, _: bytes, generator: Generator) -> None:
    start = int(generator.integers(len(data)))
    data[start:start] = data[start : start + int(generator.integers(1, 4097))] * int(generator.integers(1, 5))


def _insert_noise(data: bytearray, _: bytes, generator: Generator) -> None:
    start, size = int(generator.integers(len(data))), int(generator.integers(1, 257))
    data[start : start + size] = generator.bytes(size)


def _splice(data: bytearray, other: bytes, generator: Generator) -> None:
    start, there = int(generator.integers(len(data))), int(generator.integers(len(other)))
    data[start : start + 512] = other[there : there + 512]


MUTATIONS: tuple[Mutation, ...] = (_flip_bits, _cut_off, _leave_out, _repeat, _insert_noise, _splice)
