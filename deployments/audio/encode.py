"""Encodes sound in the formats of `formats.py`, as one continuous stream.

The bytes that an encoder returns make one valid file when they are concatenated. They leave as early as the codec permits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from deployments.audio import g711
from deployments.audio.formats import AudioFormat
from deployments.audio.pcm import to_int16
from deployments.audio.resample import Resampler
from deployments.audio.sample_encoder import (
    SampleCoding,
    SampleEncoder,
    refuse_if,
    rows_of,
    wav_header,
    without_bad_numbers,
)
from deployments.errors import fail

Float = NDArray[np.float32]

# PyAV's log callback takes the interpreter lock, for which codec threads would wait. Without it, nothing is printed.
av.logging.set_level(None)


class Encoder(Protocol):
    """Encodes one stream of sound."""

    @property
    def sample_rate(self) -> int:
        """The rate of the encoded sound, in Hz."""

    @property
    def reached(self) -> int:
        """How many of the samples that it was given, per channel and before they were resampled, the returned bytes contain.
        A resampler and a codec hold back the last ones."""

    @property
    def written(self) -> int:
        """The samples per channel of the encoded sound so far, at `sample_rate`. After `finish` it is the length of the
        file."""

    def encode(self, samples: Float) -> bytes:
        """Takes the next float32 samples in [-1, 1], (n,) or (channels, n), and returns the bytes that are ready.

        Samples beyond [-1, 1] are clipped, and NaN becomes silence. Mono samples go to all channels. Raises ValueError if the
        shape does not fit the stream, or after its end.
        """

    def finish(self) -> bytes:
        """Ends the stream and returns its last bytes. A second call returns none."""

    def close(self) -> None:
        """Frees the codec without ending the stream. Safe to call twice, and after `finish`."""


_CODINGS: Mapping[AudioFormat, SampleCoding] = {
    "pcm": "pcm",
    "wav": "pcm",
    "mulaw": "mulaw",
    "wav_mulaw": "mulaw",
    "alaw": "alaw",
    "wav_alaw": "alaw",
}


def open_encoder(
    format: AudioFormat,
    source_rate: int,
    channels: int = 1,
    *,
    sample_rate: int | None = None,
    total_samples: int | None = None,
    continues: bool = False,
) -> Encoder:
    """Opens a stream of `channels` channels of samples at `source_rate` Hz, which are resampled once, to
    `encoded_rate(format, source_rate, sample_rate)`. A stream that `continues` another can be appended to it: WAV and FLAC
    have no header then, and Ogg begins the next link of a chain.

    `total_samples`, per channel of the encoded sound, is the exact length for a WAV or FLAC header. Without it a WAV header
    has the largest length and a FLAC header none, which players and FFmpeg accept and `soundfile` does not. Raises
    `MotetError` (unsupported) for more than two channels.
    """
    if channels not in (1, 2):
        cause = f"The sound has {channels} channels, and this service writes mono or stereo."
        raise fail("unsupported", cause, "Mix it down to two channels.", code="unsupported_channels")
    rate = encoded_rate(format, source_rate, sample_rate)
    if coding := _CODINGS.get(format):
        has_header = format.startswith("wav") and not continues
        header = wav_header(rate, channels, total_samples, coding) if has_header else b""
        return SampleEncoder(coding, source_rate, rate, channels, header)
    encoder = StreamEncoder(_CODECS[format], source_rate, rate, channels)
    if format == "flac" and continues:
        encoder.rewrite_header(lambda header: b"")
    elif format == "flac" and total_samples is not None:
        encoder.rewrite_header(lambda header: _flac_header(header, total_samples))
    return encoder


def encoded_rate(format: AudioFormat, source_rate: int, wanted: int | None = None) -> int:
    """The rate in Hz of the encoded sound: the wanted one, or that of the source; of G.711, if none is wanted, 8 kHz. Where a
    codec (opus, mp3, aac) does not have it, the next higher one that it has."""
    if format in _CODECS:
        return _CODECS[format].rate(wanted or source_rate)
    return wanted or (source_rate if _CODINGS[format] == "pcm" else g711.RATE)


def header_of(format: AudioFormat, sample_rate: int, channels: int, total_samples: int) -> bytes:
    """The header of a file at `sample_rate` with `total_samples` samples per channel. In WAV and FLAC it is as long as the
    header of a stream of unknown length, so it can be written over that one."""
    encoder = open_encoder(format, sample_rate, channels, sample_rate=sample_rate, total_samples=total_samples)
    try:
        return encoder.encode(np.zeros((channels, 0), np.float32))
    finally:
        encoder.close()


@dataclass(frozen=True, slots=True)
class _Codec:
    container: str
    name: str
    sample_format: str
    bit_rate: Callable[[int], int | None]
    """Bits per second and channel at a sample rate."""
    rates: tuple[int, ...] = ()
    """Sample rates of the codec in Hz, ascending. Empty for any."""
    muxer_options: Mapping[str, str] = field(default_factory=dict)
    codec_options: Mapping[str, str] = field(default_factory=dict)
    paged: bool = False
    """Whether the muxer holds packets back until an Ogg page is full."""

    def rate(self, wanted: int) -> int:
        """The codec's lowest rate that keeps the whole band, or its highest rate."""
        return next((rate for rate in self.rates if rate >= wanted), max(self.rates, default=wanted))


_LOW_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)

_CODECS: Mapping[AudioFormat, _Codec] = {
    "mp3": _Codec(
        container="mp3",
        name="libmp3lame",
        sample_format="fltp",
        bit_rate=lambda rate: 64_000 if rate <= 24_000 else 96_000,
        rates=_LOW_RATES,
        # A stream cannot go back to write a Xing header. Without a bit reservoir no frame waits for another.
        muxer_options={"write_xing": "0", "id3v2_version": "0"},
        # At this bit rate LAME's faster search is as close to the waveform.
        codec_options={"reservoir": "0", "compression_level": "7"},
    ),
    "opus": _Codec(
        container="ogg",
        name="libopus",
        sample_format="flt",
        bit_rate=lambda rate: 48_000,
        rates=(8000, 12000, 16000, 24000, 48000),
        # Microseconds. The muxer holds one page back, so sound leaves after about two of these.
        muxer_options={"page_duration": "60000"},
        paged=True,
    ),
    "aac": _Codec(
        container="adts",
        name="aac",
        sample_format="fltp",
        bit_rate=lambda rate: 64_000,
        rates=(*_LOW_RATES, 64000, 88200, 96000),
    ),
    "flac": _Codec(
        container="flac",
        name="flac",
        sample_format="s16",
        bit_rate=lambda rate: None,
        # FFmpeg's default padding for tags would be 8 KiB before the first sound.
        muxer_options={"metadata_header_padding": "0"},
    ),
}


class StreamEncoder:
    """MP3, Opus in Ogg, AAC in ADTS, and FLAC, with one muxer for the life of the stream."""

    def __init__(self, codec: _Codec, source_rate: int, sample_rate: int, channels: int) -> None:
        self._channels = channels
        self._source_rate = source_rate
        self.sample_rate = sample_rate
        self._resampler = Resampler(source_rate, sample_rate, channels)
        self._format = codec.sample_format
        self._layout = "mono" if channels == 1 else "stereo"
        self._paged = codec.paged
        self._taken = self.written = 0
        self._packets_end = Fraction(0)
        self._delay: Fraction | None = None
        self.reached = 0
        self._ended = False
        self._in_use = threading.Lock()
        self._sink = _Sink()
        # `bitexact` leaves out random serial numbers and library versions, so the same sound gives the same bytes.
        options = {"fflags": "+bitexact", **codec.muxer_options}
        self._container = av.open(self._sink, "w", format=codec.container, container_options=options)
        self._stream = self._container.add_stream(codec.name, rate=self.sample_rate, options=dict(codec.codec_options))
        assert isinstance(self._stream, av.AudioStream)
        self._prepare(self._stream, codec.bit_rate(self.sample_rate))

    def encode(self, samples: Float) -> bytes:
        """See `Encoder.encode`."""
        with self._use():
            refuse_if(self._ended)
            rows = rows_of(samples, self._channels)
            self._taken += rows.shape[1]
            self._write(self._resampler.push(without_bad_numbers(rows)))
            written = self._sink.take()
            self.reached = min(self._taken, max(self.reached, int(self._end_of(written) * self._source_rate)))
            return written

    def finish(self) -> bytes:
        """See `Encoder.finish`. Returns what the resampler, the codec and the muxer held back."""
        with self._use():
            if not self._ended:
                self._write(rows_of(self._resampler.finish(), self._channels))
                self._mux(None)
                self._ended = True
                self._container.close()  # some containers write their end only now
                self.reached = self._taken
            return self._sink.take()

    def close(self) -> None:
        """Frees the codec and the muxer. If another thread is encoding, that thread frees them at its end."""
        self._ended = True
        if self._in_use.acquire(blocking=False):
            self._container.close()
            self._in_use.release()

    @contextmanager
    def _use(self) -> Iterator[None]:
        """Keeps the muxer for one call. When a client leaves, the encoder is closed while a thread may still be encoding,
        and a muxer that is freed during a call crashes the process."""
        with self._in_use:
            try:
                yield
            finally:
                if self._ended:
                    self._container.close()

    def rewrite_header(self, change: Callable[[bytes], bytes]) -> None:
        """Replaces the header with the result of `change`. To be called before the first `encode`."""
        self._sink.write(change(self._sink.take()))

    def _prepare(self, stream: av.AudioStream, bit_rate: int | None) -> None:
        context = stream.codec_context
        context.format, context.layout = self._format, self._layout
        if bit_rate is not None:
            context.bit_rate = bit_rate * self._channels
        # Opens the codec and writes the header now, so that a stream without samples is a valid file too.
        self._container.start_encoding()

    def _write(self, samples: Float) -> None:
        # Codecs have crashed on long single writes, so none gets more than a second at once.
        for start in range(0, samples.shape[1], self.sample_rate):
            self._mux(self._frame(samples[:, start : start + self.sample_rate]))

    def _frame(self, samples: Float) -> AudioFrame:
        sound = to_int16(samples) if self._format == "s16" else samples.clip(-1.0, 1.0)
        planar = self._format.endswith("p")
        # PyAV takes interleaved samples as one row.
        rows = np.ascontiguousarray(sound if planar else sound.T.reshape(1, -1))
        frame = AudioFrame.from_ndarray(rows, format=self._format, layout=self._layout)
        frame.sample_rate = self.sample_rate
        frame.time_base = Fraction(1, self.sample_rate)
        frame.pts = self.written
        self.written += samples.shape[1]
        return frame

    def _mux(self, frame: AudioFrame | None) -> None:
        assert isinstance(self._stream, av.AudioStream)
        for packet in self._stream.encode(frame):
            if packet.pts is not None and packet.duration is not None:
                self._delay = -packet.pts * packet.time_base if self._delay is None else self._delay
                self._packets_end = (packet.pts + packet.duration) * packet.time_base
            self._container.mux(packet)

    def _end_of(self, written: bytes) -> Fraction:
        """Where the sound in the latest bytes ends, in seconds from the start; 0 if they contain none.

        Packet times count from the start of the sound. The granule position of an Ogg page is the number of samples at 48 kHz
        up to its end, and that includes the codec's delay (RFC 7845).
        """
        if not self._paged:
            return self._packets_end
        page = written.rfind(b"OggS")
        if page < 0 or self._delay is None:
            return Fraction(0)
        return Fraction(int.from_bytes(written[page + 6 : page + 14], "little", signed=True), 48_000) - self._delay


class _Sink:
    """The file that the muxer writes to. It has no `seek`, so the muxer never goes back."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def write(self, data: bytes) -> int:
        self._waiting += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._waiting)
        self._waiting.clear()
        return taken


def _flac_header(header: bytes, total_samples: int) -> bytes:
    # The length is the low 36 bits of eight bytes in STREAMINFO (RFC 9639). Zero means unknown.
    at = 18
    packed = int.from_bytes(header[at : at + 8], "big") >> 36 << 36
    length = total_samples if total_samples < 2**36 else 0
    return header[:at] + (packed | length).to_bytes(8, "big") + header[at + 8 :]
