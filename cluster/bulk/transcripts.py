"""The transcript of a recording as a file: text, JSON or subtitles."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from deployments.settings import SubtitleSettings
from deployments.text import subtitles
from deployments.text.subtitles import TimedWord

TranscriptForm = Literal["txt", "srt", "vtt", "json"]
WITH_WORDS: tuple[TranscriptForm, ...] = ("srt", "vtt")
"""Formats that need the time of each word."""


def transcript_file(facts: Mapping[str, Any], form: TranscriptForm, settings: SubtitleSettings) -> bytes:
    """The file of a row of results. `timings` are those of words for subtitles."""
    return _WRITERS[form](facts, settings).encode()


def _json(facts: Mapping[str, Any], settings: SubtitleSettings) -> str:
    names = ("text", "language", "seconds", "timings")
    return json.dumps({name: facts[name] for name in names if facts[name] is not None}, ensure_ascii=False) + "\n"


def _srt(facts: Mapping[str, Any], settings: SubtitleSettings) -> str:
    return subtitles.srt(list(_words(facts["text"], facts["timings"])), facts["seconds"], settings)


def _vtt(facts: Mapping[str, Any], settings: SubtitleSettings) -> str:
    return subtitles.vtt(list(_words(facts["text"], facts["timings"])), facts["seconds"], settings)


def _words(text: str, timings: Sequence[Mapping[str, Any]]) -> Iterator[TimedWord]:
    """The words with their times. The text says which are attached to the one before."""
    end = 0
    for timing in timings:
        word = timing["text"]
        start = text.find(word, end)
        attached = start > 0 and not text[start - 1].isspace()
        end = max(end, start + len(word))
        yield TimedWord(word, timing["start"], timing["end"], attached=attached)


_WRITERS: Mapping[TranscriptForm, Callable[[Mapping[str, Any], SubtitleSettings], str]] = {
    "txt": lambda facts, _: facts["text"] + "\n",
    "srt": _srt,
    "vtt": _vtt,
    "json": _json,
}
