"""Transcripts in OpenAI's five formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, Protocol

from starlette.responses import JSONResponse, PlainTextResponse, Response

from deployments.engines.protocols import Segment
from deployments.tasks.transcription import TranscriptWindow, seconds_of, segments_of, text_of
from deployments.text.languages import NAMES

TranscriptFormat = Literal["json", "text", "srt", "vtt", "verbose_json"]


class TranscriptRequest(Protocol):
    """The fields of a request that decide what its answer contains."""

    @property
    def temperature(self) -> float:
        """The sampling temperature that was used."""

    @property
    def timestamp_granularities(self) -> Sequence[str]:
        """Which times the client wants."""


def rendered(
    heard: Sequence[TranscriptWindow], form: TranscriptFormat, asked: TranscriptRequest, task: str
) -> Response:
    """The whole answer."""
    if form == "verbose_json":
        return JSONResponse(verbose(heard, asked, task))
    if form == "json":
        return JSONResponse({"text": text_of(heard), "usage": {"type": "duration", "seconds": seconds_of(heard)}})
    media_type = "text/vtt" if form == "vtt" else "text/plain"
    return PlainTextResponse(PLAIN[form](heard), media_type=media_type)


def verbose(heard: Sequence[TranscriptWindow], asked: TranscriptRequest, task: str) -> dict[str, Any]:
    """OpenAI's `verbose_json`."""
    language = heard[0].transcript.language if heard else ""
    seconds = seconds_of(heard)
    answer: dict[str, Any] = {
        "task": task,
        "language": NAMES.get(language, language),
        "duration": seconds,
        "text": text_of(heard),
        "usage": {"type": "duration", "seconds": seconds},
    }
    segments = segments_of(heard)
    if "segment" in asked.timestamp_granularities:
        answer["segments"] = [_segment(i, segment, asked.temperature) for i, segment in enumerate(segments)]
    if "word" in asked.timestamp_granularities:
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


def plain(heard: Sequence[TranscriptWindow]) -> str:
    """Text and a line end."""
    return text_of(heard) + "\n"


def srt(heard: Sequence[TranscriptWindow]) -> str:
    """SubRip."""
    cues = (
        f"{number}\n{clock(s.start, ',')} --> {clock(s.end, ',')}\n{_cue(s.text)}\n\n"
        for number, s in enumerate(segments_of(heard), 1)
    )
    return "".join(cues)


def vtt(heard: Sequence[TranscriptWindow]) -> str:
    """WebVTT."""
    cues = (f"{clock(s.start, '.')} --> {clock(s.end, '.')}\n{_cue(s.text)}\n\n" for s in segments_of(heard))
    return "WEBVTT\n\n" + "".join(cues)


PLAIN: Mapping[str, Callable[[Sequence[TranscriptWindow]], str]] = {"text": plain, "srt": srt, "vtt": vtt}


def _cue(text: str) -> str:
    """An arrow would end a cue's text."""
    return text.strip().replace("-->", "->")


def clock(seconds: float, decimal_mark: str) -> str:
    """hh:mm:ss and milliseconds."""
    milliseconds = max(0, round(seconds * 1000))
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{decimal_mark}{milliseconds % 1000:03}"
