"""Transcripts in OpenAI's five formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, Protocol

from starlette.responses import JSONResponse, PlainTextResponse, Response

from deployments.engines.protocols import Segment
from deployments.tasks.transcription import TranscriptWindow, language_of, seconds_of, segments_of, text_of
from deployments.text.languages import NAMES

TranscriptFormat = Literal["json", "text", "srt", "vtt", "verbose_json"]


class TranscriptRequest(Protocol):
    """The fields of a request that decide what its answer contains."""

    @property
    def temperature(self) -> float:
        """The sampling temperature."""

    @property
    def timestamp_granularities(self) -> Sequence[str]:
        """The times that the answer has: "segment", "word" or both."""


def rendered(
    windows: Sequence[TranscriptWindow], form: TranscriptFormat, request: TranscriptRequest, task: str
) -> Response:
    """The response with a transcript in a format. `task` is "transcribe" or "translate"."""
    if form == "verbose_json":
        return JSONResponse(verbose(windows, request, task))
    if form == "json":
        return JSONResponse({"text": text_of(windows), "usage": {"type": "duration", "seconds": seconds_of(windows)}})
    media_type = "text/vtt" if form == "vtt" else "text/plain"
    return PlainTextResponse(PLAIN[form](windows), media_type=media_type)


def verbose(windows: Sequence[TranscriptWindow], request: TranscriptRequest, task: str) -> dict[str, Any]:
    """The body of the format `verbose_json`."""
    language = language_of(windows) or ""
    seconds = seconds_of(windows)
    answer: dict[str, Any] = {
        "task": task,
        "language": NAMES.get(language, language),
        "duration": seconds,
        "text": text_of(windows),
        "usage": {"type": "duration", "seconds": seconds},
    }
    segments = segments_of(windows)
    if "segment" in request.timestamp_granularities:
        answer["segments"] = [_segment(i, segment, request.temperature) for i, segment in enumerate(segments)]
    if "word" in request.timestamp_granularities:
        words = [word for segment in segments for word in segment.words]
        answer["words"] = [{"word": w.text.strip(), "start": round(w.start, 3), "end": round(w.end, 3)} for w in words]
    return answer


def _segment(number: int, segment: Segment, temperature: float) -> dict[str, Any]:
    facts = asdict(segment)
    return {
        "id": number,
        "seek": int(segment.start * 100),
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "tokens": list(facts["tokens"]),
        "temperature": temperature,
        "avg_logprob": segment.average_log_probability,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_probability,
    }


def plain(windows: Sequence[TranscriptWindow]) -> str:
    """The text and a line end."""
    return text_of(windows) + "\n"


def srt(windows: Sequence[TranscriptWindow]) -> str:
    """SubRip subtitles."""
    cues = (
        f"{number}\n{clock(s.start, ',')} --> {clock(s.end, ',')}\n{_cue(s.text)}\n\n"
        for number, s in enumerate(segments_of(windows), 1)
    )
    return "".join(cues)


def vtt(windows: Sequence[TranscriptWindow]) -> str:
    """WebVTT subtitles."""
    cues = (f"{clock(s.start, '.')} --> {clock(s.end, '.')}\n{_cue(s.text)}\n\n" for s in segments_of(windows))
    return "WEBVTT\n\n" + "".join(cues)


PLAIN: Mapping[str, Callable[[Sequence[TranscriptWindow]], str]] = {"text": plain, "srt": srt, "vtt": vtt}


def _cue(text: str) -> str:
    """The text of a cue. An arrow would end it."""
    return text.strip().replace("-->", "->")


def clock(seconds: float, decimal_mark: str) -> str:
    """A time as hh:mm:ss and milliseconds."""
    milliseconds = max(0, round(seconds * 1000))
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{decimal_mark}{milliseconds % 1000:03}"
