"""Audio formats that Motet writes, and suffixes of the files that it reads. It imports no codec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm", "mulaw", "alaw", "wav_mulaw", "wav_alaw"]
"""`pcm`, `mulaw` and `alaw` are samples without a header; `wav`, `wav_mulaw` and `wav_alaw` are the same in a WAV."""

SOUND_SUFFIXES = frozenset((".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".aac", ".webm"))
"""Files in a folder that are taken for recordings."""

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 8000, 48_000
"""Rates in Hz that a request may choose."""
MIN_LUFS, MAX_LUFS = -40.0, -10.0
"""Loudness that a request may choose. The peaks of speech are 12 dB and more above its loudness."""


@dataclass(frozen=True, slots=True)
class FormatInfo:
    """A format's media type, and the extension of its files without the dot."""

    media_type: str
    extension: str
    sample_bytes: int | None = None
    """Bytes of a sample, for formats whose samples all have the same size."""
    wav: AudioFormat | None = None
    """For samples without a header: the format that has them in a WAV."""

    @property
    def instant(self) -> bool:
        """Whether encoding is so cheap that it needs no thread."""
        return self.sample_bytes is not None


FORMATS: Mapping[AudioFormat, FormatInfo] = MappingProxyType(
    {
        "mp3": FormatInfo("audio/mpeg", "mp3"),
        "opus": FormatInfo("audio/ogg", "opus"),
        "aac": FormatInfo("audio/aac", "aac"),
        "flac": FormatInfo("audio/flac", "flac"),
        "wav": FormatInfo("audio/wav", "wav", 2),
        "pcm": FormatInfo("audio/pcm", "pcm", 2, "wav"),
        "mulaw": FormatInfo("audio/pcmu", "ulaw", 1, "wav_mulaw"),
        "alaw": FormatInfo("audio/pcma", "alaw", 1, "wav_alaw"),
        "wav_mulaw": FormatInfo("audio/wav", "wav", 1),
        "wav_alaw": FormatInfo("audio/wav", "wav", 1),
    }
)


def format_of(extension: str) -> AudioFormat | None:
    """The format with a file extension such as `.wav`, in any case; None for another."""
    return next((form for form, info in FORMATS.items() if info.extension == extension.lower().lstrip(".")), None)
