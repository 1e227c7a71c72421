"""Decodes untrusted recordings: streaming, in constant memory, and only in the formats of an allow-list.

The first bytes decide which demuxer opens the file, never its name. Both containers and codecs are allow-listed. A file that
states a length over the limit is refused at once. A shorter stated length is not trusted: sound is decoded block by block
until the limit is reached.
"""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, suppress
from itertools import chain
from math import ceil
from typing import BinaryIO

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

from deployments.audio.file_source import ByteSource, FileSource
from deployments.audio.resample import Resampler
from deployments.audio.sound_decoder import BLOCK_SECONDS, AudioInfo, Float, OpenDecoder
from deployments.audio.stated_length import credible_seconds, first_mp3_frame, mp3_end, stated_seconds
from deployments.errors import MotetError, fail

LOWEST_RATE = 4_000
HIGHEST_RATE = 192_000
MOST_CHANNELS = 8
# Decoders overshoot full scale a little, which is kept. A float file can hold any number, which is clipped.
LOUDEST = 8.0
STATED_MARGIN_SECONDS = 1.0
"""Padding that encoders add at both ends, and that some files count."""
SHORTEST_SECONDS = 0.05
"""A file with less sound was cut off, unless it states that it is so short."""

ACCEPTED = "WAV, FLAC, MP3, OGG (Opus, Vorbis or FLAC), M4A, AAC or WebM"

# FFmpeg's names of the decoders that may run on a client's bytes.
CODECS = frozenset(
    ("mp3float", "aac", "flac", "vorbis", "opus")
    + ("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_alaw", "pcm_mulaw")
)

OTHER_FORMAT = (av.error.PatchWelcomeError, av.error.ArgumentError)
"""What FFmpeg's Ogg demuxer raises at a part with another rate, other channels or another codec. It cannot read the rest."""

_HEAD_BYTES = 512
_OPTIONS = {"codec_whitelist": ",".join(sorted(CODECS))}
# A WAV has no packets of its own, and with FFmpeg's default of 4 kB the overhead of packets exceeds the decoding. By default
# it also reads 5 MB to make sure that 16-bit samples are not a disguised DTS track.
_WAV_OPTIONS = {**_OPTIONS, "max_size": "65536", "probesize": "65536"}

_LOOKS = (
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"GIF8", "a GIF picture"),
    (8, b"WEBP", "a WebP picture"),
    (4, b"ftyphei", "a HEIC picture"),
    (4, b"ftypmif1", "a HEIC picture"),
    (4, b"ftypavif", "an AVIF picture"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive or an Office document"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (8, b"AVI ", "an AVI video"),
    (0, b"FLV", "a Flash video"),
    (0, b"\x30\x26\xb2\x75", "a Windows Media file"),
    (0, b"#!AMR", "an AMR recording"),
    (0, b"FORM", "an AIFF recording"),
    (0, b"caff", "a Core Audio file"),
    (0, b"MThd", "a MIDI file, which holds notes and no sound"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
)

# PyAV's log callback is process-wide and takes the interpreter lock, for which codec threads would wait.
av.logging.set_level(None)


class AudioDecoder:
    """An opened file: `info`, then one pass over its sound as float32 (channels, n) blocks of nominally [-1, 1].

    Blocks are at `sample_rate` Hz, or at the file's rate if it is None. All are `block_seconds` long except the last. They
    have one channel if `mono`, and otherwise the file's channels. `file` needs only `read`; a file that can seek is read from
    its start. An M4A that cannot seek is copied to a temporary file, since its index may come last. Of damaged and cut files
    the part that can be decoded is returned.

    Opening raises `MotetError`: invalid with the code `empty_audio`, `unsupported_audio` or `corrupt_audio`, or too_large
    with `audio_too_large` for an endless M4A or `audio_too_long` for a file that states a length above `max_seconds`
    (`stated_length.py`). That check needs `size_bytes` for a file that cannot seek. Iterating raises too_large
    `audio_too_long` once the sound passes `max_seconds`, invalid `audio_too_short` if it ends within `SHORTEST_SECONDS`, and
    `unsupported_audio` if it changes to a rate that is not accepted, or at all in an Ogg file. An exception of `file.read` is
    raised unchanged.
    """

    def __init__(
        self,
        file: ByteSource | bytes,
        *,
        sample_rate: int | None = None,
        mono: bool,
        max_seconds: float,
        block_seconds: float = BLOCK_SECONDS,
        size_bytes: int | None = None,
    ) -> None:
        self._source = FileSource(io.BytesIO(file) if isinstance(file, bytes) else file, size_bytes)
        self._broken = False
        self._max_seconds = max_seconds
        with ExitStack() as undo:
            undo.callback(self._source.close)
            demuxer, container = _open(self._source)
            self._container = undo.enter_context(container)
            self._stream = _sound_of(self._container)
            self._frames = self._decode()
            # Before the container, since PyAV would go on reading from a closed one.
            undo.callback(self._frames.close)
            self._first = self._first_frame()
            self._stated_seconds = stated_seconds(demuxer, self._container, self._stream, self._source.read_at)
            self._check_stated_length(demuxer)
            self._mp3_end = mp3_end(first_mp3_frame(self._source.read_at)) if demuxer == "mp3" else None
            self._open = undo.pop_all()
        self.info = AudioInfo(
            self._first.sample_rate, _channels(self._first), self._stream.codec_context.codec.canonical_name
        )
        self._rate = sample_rate or self.info.sample_rate
        self._channels = 1 if mono else self.info.channels
        self._block_seconds = block_seconds
        self._given = 0

    def __iter__(self) -> Iterator[Float]:
        """The sound. It can be iterated once."""
        size = max(1, round(self._block_seconds * self._rate))
        held = np.zeros((self._channels, 0), np.float32)
        for piece in self._resampled():
            held = np.concatenate([held, piece], axis=1)
            whole = held.shape[1] - held.shape[1] % size
            yield from (held[:, start : start + size] for start in range(0, whole, size))
            held = held[:, whole:]
        self._check_length()
        if held.shape[1]:
            yield held

    def close(self) -> None:
        """Frees the codec and ends the iteration. Safe to call twice. The caller's file stays open."""
        self._open.close()

    def _check_stated_length(self, demuxer: str) -> None:
        size = self._source.size_bytes
        stated = size and credible_seconds(self._stated_seconds, demuxer, self._stream, size)
        if stated and stated > self._max_seconds + STATED_MARGIN_SECONDS:
            raise self._too_long()

    def _check_length(self) -> None:
        """For the end of the sound. Raises `MotetError` if there is none, or so little that it must have been cut off."""
        if not self._given:
            raise _empty("The file has no sound in it.")
        seconds = self._given / self._rate
        if seconds < SHORTEST_SECONDS and not 0 < (self._stated_seconds or 0) < SHORTEST_SECONDS:
            raise _cut_off(seconds, self._stated_seconds)

    def _too_long(self) -> MotetError:
        cause = f"The recording is longer than the limit of {self._max_seconds:g} seconds."
        return fail("too_large", cause, "Send it in shorter parts.", param="file", code="audio_too_long")

    def _first_frame(self) -> AudioFrame:
        frame = next(self._frames, None)
        if frame is None:
            raise _corrupt() if self._broken else _empty("The file has no sound in it.")
        return frame

    def _decode(self) -> Generator[AudioFrame, None, None]:
        # An error between packets ends the file, as in one that was cut short.
        with suppress(av.FFmpegError):
            try:
                for packet in self._container.demux(self._stream):
                    yield from self._frames_of(packet)
            except OTHER_FORMAT as error:
                if self._container.format.name != "ogg":
                    raise
                cause = "The file's sound changes its rate, channels or codec in the middle, as in joined Ogg files."
                raise _unsupported(cause, "Send the parts one by one.") from error
        self._source.raise_error()

    def _frames_of(self, packet: Packet[AudioStream]) -> Iterator[AudioFrame]:
        # Only the sound of a damaged packet is lost.
        try:
            frames = packet.decode()
        except av.FFmpegError:
            self._broken = True
            return
        for frame in frames:
            if frame.samples:
                _check(frame.sample_rate, _channels(frame))
                yield frame

    def _source_blocks(self) -> Iterator[tuple[int, Float]]:
        """Blocks with their own rate, which changes in the middle of concatenated files."""
        held: list[Float] = []
        count = rate = total = 0
        for frame in chain([self._first], self._frames):
            full = count + frame.samples > frame.sample_rate * self._block_seconds
            if held and (full or frame.sample_rate != rate):
                yield rate, _block_of(held)
                held, count = [], 0
            rate = frame.sample_rate
            count += frame.samples
            total += frame.samples
            held.append(_fit(_samples(frame), self._channels))
        yield rate, self._without_padding(_block_of(held), total)

    def _without_padding(self, last: Float, total: int) -> Float:
        """The last block of `total` samples without what an MP3's encoder added. FFmpeg removes it only from files that can
        seek."""
        end = self._mp3_end
        if end is None or not 0 < total - end.samples <= end.padding:
            return last
        return last[:, : max(0, last.shape[1] - (total - end.samples))]

    def _resampled(self) -> Iterator[Float]:
        rate = self.info.sample_rate
        resampler = Resampler(rate, self._rate, self._channels)
        for block_rate, block in self._source_blocks():
            if block_rate != rate:
                yield self._counted(resampler.finish())
                rate, resampler = block_rate, Resampler(block_rate, self._rate, self._channels)
            yield self._counted(resampler.push(block))
        yield self._counted(resampler.finish())

    def _counted(self, samples: Float) -> Float:
        self._given += samples.shape[1]
        if self._given > ceil(self._max_seconds * self._rate):
            raise self._too_long()
        return samples


def decode_stream(
    file: BinaryIO | ByteSource | bytes,
    *,
    sample_rate: int | None = None,
    mono: bool,
    max_seconds: float,
    block_seconds: float = BLOCK_SECONDS,
    open_decoder: OpenDecoder = AudioDecoder,
) -> Iterator[Float]:
    """The blocks of a decoder, which opens, and may fail, at the first block, and is closed at the end."""
    decoder = open_decoder(
        file, sample_rate=sample_rate, mono=mono, max_seconds=max_seconds, block_seconds=block_seconds
    )
    with closing(decoder):
        yield from decoder


def decode_all(
    data: bytes,
    sample_rate: int | None,
    mono: bool,
    max_seconds: float,
    open_decoder: OpenDecoder = AudioDecoder,
) -> Float:
    """All the sound in `data` as one float32 (channels, n) array. Raises what the decoder raises."""
    blocks = decode_stream(data, sample_rate=sample_rate, mono=mono, max_seconds=max_seconds, open_decoder=open_decoder)
    return np.concatenate(list(blocks), axis=1)


def _open(source: FileSource) -> tuple[str, InputContainer]:
    """The demuxer's name, and the container that it opened."""
    demuxer = _demuxer(source.peek(_HEAD_BYTES))
    if demuxer == "mov":
        source.make_seekable()
    try:
        options = _WAV_OPTIONS if demuxer == "wav" else _OPTIONS
        return demuxer, av.open(source, "r", format=demuxer, container_options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        source.raise_error()
        raise _corrupt() from error


def _demuxer(head: bytes) -> str:
    """FFmpeg's demuxer for a file that starts with `head`."""
    if not head:
        raise _empty("The file is empty.")
    for offset, magic, looks in _LOOKS:
        if head.startswith(magic, offset):
            raise _unsupported(f"The file is not audio that this service reads; it looks like {looks}.")
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    starts = {b"fLaC": "flac", b"OggS": "ogg", b"\x1aE\xdf\xa3": "matroska"}
    if head[:4] in starts:
        return starts[head[:4]]
    if head[4:8] == b"ftyp":
        return "mov"
    return _mpeg(head)


def _mpeg(head: bytes) -> str:
    if head[:3] == b"ID3":
        return "mp3"
    if len(head) > 2 and head[0] == 0xFF:
        version, layer, bit_rate, rate = (head[1] >> 3) & 3, (head[1] >> 1) & 3, head[2] >> 4, (head[2] >> 2) & 3
        if head[1] & 0xF6 == 0xF0:
            return "aac"
        if head[1] >= 0xE0 and version != 1 and layer == 1 and bit_rate != 15 and rate != 3:
            return "mp3"
    looks = f"; it looks like {_text(head)}" if _is_text(head) else ""
    raise _unsupported(f"The file is not audio that this service reads{looks}.")


def _is_text(head: bytes) -> bool:
    text = head.decode(errors="ignore")
    # The last character may be cut in the middle.
    return len(text.encode()) > len(head) - 4 and all(letter.isprintable() or letter.isspace() for letter in text)


def _text(head: bytes) -> str:
    return {b"<": "an HTML or XML page", b"{": "JSON"}.get(head.lstrip()[:1], "text")


def _sound_of(container: InputContainer) -> AudioStream:
    if not container.streams:
        raise _corrupt()
    if not container.streams.audio:
        raise _unsupported("The file has no audio track.")
    stream = container.streams.audio[0]
    # PyAV has no context for a codec that this build cannot decode.
    name = stream.codec_context.name if stream.codec_context else "an unknown codec"
    if name not in CODECS:
        raise _unsupported(f"The file's audio codec is {name}, which this service does not read.")
    return stream


def _check(sample_rate: int, channels: int) -> None:
    if not LOWEST_RATE <= sample_rate <= HIGHEST_RATE:
        raise _unsupported(f"The sample rate is {sample_rate} Hz, and {LOWEST_RATE} to {HIGHEST_RATE} Hz are accepted.")
    if channels > MOST_CHANNELS:
        raise _unsupported(f"The sound has {channels} channels, and up to {MOST_CHANNELS} are accepted.")


def _channels(frame: AudioFrame) -> int:
    return frame.layout.nb_channels


def _samples(frame: AudioFrame) -> Float:
    """A decoded frame as float32 (channels, n)."""
    raw = frame.to_ndarray()
    rows = raw if frame.format.is_planar else raw.reshape(-1, _channels(frame)).T
    sound: Float = rows.astype(np.float32)
    if rows.dtype == np.uint8:
        return (sound - 128.0) / 128.0
    if rows.dtype.kind == "i":
        return sound * np.float32(2.0 ** (1 - 8 * rows.dtype.itemsize))
    return sound


def _block_of(frames: list[Float]) -> Float:
    """Frames as one block of finite samples. Not frame by frame: of an MP3 that would take as long as the decoding."""
    block = np.concatenate(frames, axis=1)
    return np.nan_to_num(block, copy=False, nan=0.0, posinf=LOUDEST, neginf=-LOUDEST).clip(-LOUDEST, LOUDEST, out=block)


def _fit(samples: Float, channels: int) -> Float:
    if samples.shape[0] == channels:
        return samples
    mixed = samples[0].copy()
    for row in samples[1:]:  # NumPy's mean takes ten times as long over interleaved channels
        mixed += row
    mixed /= len(samples)
    return np.repeat(mixed[np.newaxis], channels, axis=0)


def _empty(cause: str) -> MotetError:
    return fail("invalid", cause, "Send a recording with some sound in it.", param="file", code="empty_audio")


def _unsupported(cause: str, remedy: str = f"Send {ACCEPTED}.") -> MotetError:
    return fail("invalid", cause, remedy, param="file", code="unsupported_audio")


def _corrupt() -> MotetError:
    cause = "The file is damaged, or was cut off before its sound begins."
    return fail("invalid", cause, "Check that it plays, then send it again.", param="file", code="corrupt_audio")


def _cut_off(seconds: float, stated: float | None) -> MotetError:
    cause = f"The file has {seconds * 1000:.0f} ms of sound"
    cause += f", and states {stated:.3g} s." if stated else f", less than {SHORTEST_SECONDS * 1000:.0f} ms."
    return fail("invalid", cause, "Check that all of it was sent.", param="file", code="audio_too_short")
