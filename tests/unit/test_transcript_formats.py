"""Transcripts in OpenAI's formats."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from deployments.engines.protocols import Segment, Transcript, Word
from deployments.tasks.transcription import TranscriptWindow
from serve_app.gateway.transcript_formats import TranscriptFormat, clock, rendered


@dataclass
class Asked:
    """The request's part that matters here."""

    temperature: float = 0.0
    timestamp_granularities: tuple[str, ...] = ("segment",)


def segment(text: str, start: float, end: float) -> Segment:
    words = tuple(Word(f" {word}", start, end, 0.9) for word in text.split())
    return Segment(f" {text}", start, end, -0.2, 1.1, 0.01, (50364, 11, 12), words)


HEARD = [
    TranscriptWindow(Transcript((segment("Hello there.", 0.0, 1.25), segment("Go --> north.", 1.25, 3.0)), "en"), 29.5),
    TranscriptWindow(Transcript((), "en"), 59.0),
    TranscriptWindow(Transcript((segment("Goodbye.", 3661.5, 3662.0),), "en"), 3662.004),
]


def body(form: TranscriptFormat, asked: Asked | None = None) -> str:
    return bytes(rendered(HEARD, form, asked or Asked(), "transcribe").body).decode()


def test_text() -> None:
    assert body("text") == "Hello there. Go --> north. Goodbye.\n"


def test_json() -> None:
    assert json.loads(body("json")) == {
        "text": "Hello there. Go --> north. Goodbye.",
        "usage": {"type": "duration", "seconds": 3662.004},
    }


def test_srt() -> None:
    assert body("srt").split("\n\n")[:3] == [
        "1\n00:00:00,000 --> 00:00:01,250\nHello there.",
        "2\n00:00:01,250 --> 00:00:03,000\nGo -> north.",
        "3\n01:01:01,500 --> 01:01:02,000\nGoodbye.",
    ]


def test_vtt() -> None:
    assert body("vtt").startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.250\nHello there.\n\n")


def test_verbose_json() -> None:
    answer = json.loads(body("verbose_json"))
    assert (answer["task"], answer["language"], answer["duration"]) == ("transcribe", "english", 3662.004)
    assert [s["id"] for s in answer["segments"]] == [0, 1, 2]
    assert answer["segments"][2]["start"] == 3661.5
    assert answer["segments"][0]["tokens"] == [50364, 11, 12]
    assert "words" not in answer


def test_words_instead_of_segments() -> None:
    answer = json.loads(body("verbose_json", Asked(timestamp_granularities=("word",))))
    assert "segments" not in answer
    assert [word["word"] for word in answer["words"]][:2] == ["Hello", "there."]


def test_nothing_heard() -> None:
    assert json.loads(bytes(rendered([], "json", Asked(), "transcribe").body))["text"] == ""
    assert json.loads(bytes(rendered([], "verbose_json", Asked(), "transcribe").body))["segments"] == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "00:00:00.000"), (-0.2, "00:00:00.000"), (59.9996, "00:01:00.000"), (7384.5, "02:03:04.500")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds, ".") == text
