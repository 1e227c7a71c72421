"""Audio formats that Motet writes, and suffixes of the files that it reads. It imports no codec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

AudioFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]

SOUND_SUFFIXES = frozenset((".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".aac", ".webm"))
"""Files in a folder that are taken for recordings."""


@dataclass(frozen=True, slots=True)
class FormatInfo:
    """A format's media type, and the extension of its files without the dot."""

    media_type: str
    extension: str
    instant: bool = False
    """Whether encoding is so cheap that it needs no thread."""


FORMATS: Mapping[AudioFormat, FormatInfo] = MappingProxyType(
    {
        "mp3": FormatInfo("audio/mpeg", "mp3"),
        "opus": FormatInfo("audio/ogg", "opus"),
        "aac": FormatInfo("audio/aac", "aac"),
        "flac": FormatInfo("audio/flac", "flac"),
        "wav": FormatInfo("audio/wav", "wav", instant=True),
        "pcm": FormatInfo("audio/pcm", "pcm", instant=True),
    }
)


def format_of(extension: str) -> AudioFormat | None:
    """The format with a file extension such as `.wav`, in any case; None for another."""
    return next((form for form, info in FORMATS.items() if info.extension == extension.lower().lstrip(".")), None)
