"""Transcripts in the formats of OpenAI and in RTTM, and what OpenAI's client makes of them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any, cast
from unicodedata import category

import pytest
from openai.types.audio import (
    Transcription,
    TranscriptionDiarized,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionTextSegmentEvent,
    TranscriptionVerbose,
    TranslationVerbose,
)

from deployments.engines.protocols import Segment, Token, Transcript, Word
from deployments.settings import SubtitleSettings
from deployments.tasks.diarization import SpeakerTurn
from deployments.tasks.transcription import TranscriptWindow
from deployments.text.subtitles import cues_of, width_of
from serve_app.gateway.transcript_events import events
from serve_app.gateway.transcript_formats import TranscriptContents, TranscriptFormat, rendered, timed_words
from tests.unit.test_api import events_of


def segment(text: str, start: float, end: float, language: str = "en") -> Segment:
    texts = text.split()
    step = (end - start) / len(texts)
    words = tuple(Word(f" {word}", start + n * step, start + (n + 1) * step, 0.9) for n, word in enumerate(texts))
    return Segment(f" {text}", start, end, -0.2, 0.01, (50364, 11, 12), words, language=language)


def window(*segments: Segment, until: float, language: str = "en", **more: Any) -> TranscriptWindow:
    tokens = tuple(Token(f" {s.text.split()[0]}", -0.25, s.text.split()[0].encode()) for s in segments)
    return TranscriptWindow(Transcript(segments, language, tokens=tokens), until, tokens=len(tokens), **more)


HEARD = [
    window(segment("Hello there.", 0.0, 1.25), segment("Go --> north.", 1.25, 3.0), until=29.5),
    window(until=59.0),
    window(segment("Goodbye.", 3661.5, 3662.5), until=3664.004),
]
BOTH = [
    window(segment("Hello there.", 0.0, 1.25), until=29.5),
    window(segment("Guten Tag, wie geht es?", 30.0, 33.0, "de"), until=40.0, language="de"),
]
TURNS = (SpeakerTurn(0.0, 1.2, "A"), SpeakerTurn(1.2, 3.0, "Ada Byron"), SpeakerTurn(3661.0, 3662.5, "A"))
SPOKEN = [*HEARD[:2], replace(HEARD[2], turns=TURNS)]


def body(form: TranscriptFormat, windows: Sequence[TranscriptWindow] = HEARD, **contents: Any) -> str:
    return bytes(rendered(windows, TranscriptContents(form, **contents)).body).decode()


def answer(form: TranscriptFormat, windows: Sequence[TranscriptWindow] = HEARD, **contents: Any) -> Any:
    return json.loads(body(form, windows, **contents))


def test_text() -> None:
    assert body("text") == "Hello there. Go --> north. Goodbye.\n"


def test_json() -> None:
    assert answer("json") == {
        "text": "Hello there. Go --> north. Goodbye.",
        "languages": [{"code": "en"}],
        "usage": {"type": "duration", "seconds": 3664.004},
    }
    assert answer("json", BOTH)["languages"] == [{"code": "en"}, {"code": "de"}]
    Transcription.model_validate(answer("json"))


def test_log_probabilities_of_the_tokens() -> None:
    found = Transcription.model_validate(answer("json", log_probabilities=True))
    assert found.logprobs
    assert [token.token for token in found.logprobs] == [" Hello", " Go", " Goodbye."]
    assert (found.logprobs[0].logprob, found.logprobs[0].bytes) == (-0.25, [*b"Hello"])


@pytest.mark.parametrize(
    "text",
    [
        "今日は天気がとても良いので、私たちは公園に散歩に行って、それから図書館で本を読み、夕方には友達と一緒に食事をしてから家に帰る予定です。",
        "วันนี้อากาศดีมากพวกเราจึงไปเดินเล่นที่สวนสาธารณะแล้วไปอ่านหนังสือที่ห้องสมุดตอนเย็นกินข้าวกับเพื่อน",
    ],
)
def test_a_long_sentence_of_a_script_without_spaces_has_cues_that_can_be_read(text: str) -> None:
    said = Segment(text, 0.0, 12.0, -0.1, 0.0)
    words = list(timed_words(said))
    assert "".join(word.text for word in words) == text
    assert (words[0].start_s, words[-1].end_s) == (0.0, 12.0)
    cues = cues_of(words, 12.0, SubtitleSettings())
    assert len(cues) >= 2
    assert all(len(cue.lines) <= 2 and width_of(line) <= 42 for cue in cues for line in cue.lines)
    assert not any(line[0] in "、。ー" or category(line[0]) == "Mn" for cue in cues for line in cue.lines)


def test_texts_of_a_script_without_spaces_are_joined_without() -> None:
    heard = [
        window(segment("今天很好。", 0, 1, "zh"), until=2, language="zh"),
        window(segment("我们走。", 2, 3, "zh"), until=4),
    ]
    assert answer("json", heard)["text"] == "今天很好。我们走。"


def test_srt() -> None:
    assert body("srt").split("\n\n")[:3] == [
        "1\n00:00:00,000 --> 00:00:01,250\nHello there.",
        "2\n00:00:01,250 --> 00:00:03,000\nGo -> north.",
        "3\n01:01:01,500 --> 01:01:02,500\nGoodbye.",
    ]


def test_vtt() -> None:
    assert body("vtt").startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.250\nHello there.\n\n")


def test_subtitles_name_speakers() -> None:
    assert "\nA: Hello there.\n" in body("srt", SPOKEN)
    assert "\n<v Ada Byron>Go --&gt; north.\n" in body("vtt", SPOKEN)


def test_verbose_json() -> None:
    found = answer("verbose_json")
    assert (found["task"], found["language"], found["duration"]) == ("transcribe", "english", 3664.004)
    assert [s["id"] for s in found["segments"]] == [0, 1, 2]
    assert found["segments"][2]["start"] == 3661.5
    assert found["segments"][0]["tokens"] == [50364, 11, 12]
    assert "words" not in found
    TranscriptionVerbose.model_validate(found)


def test_each_segment_has_its_language_and_the_whole_that_of_most_speech() -> None:
    found = answer("verbose_json", BOTH)
    assert [s["language"] for s in found["segments"]] == ["en", "de"]
    assert (found["language"], found["text"]) == ("german", "Hello there. Guten Tag, wie geht es?")


def test_a_translation_is_english() -> None:
    found = TranslationVerbose.model_validate(answer("verbose_json", BOTH, task="translate"))
    assert found.language == "english"


def test_words_instead_of_segments() -> None:
    found = answer("verbose_json", segments=False, words=True)
    assert "segments" not in found
    assert found["words"][:2] == [
        {"word": "Hello", "start": 0.0, "end": 0.625},
        {"word": "there.", "start": 0.625, "end": 1.25},
    ]
    TranscriptionVerbose.model_validate(found)


def test_nothing_heard() -> None:
    assert answer("json", [])["text"] == ""
    assert answer("verbose_json", [])["segments"] == []
    assert answer("diarized_json", [])["segments"] == []
    assert (body("rttm", []), body("srt", []), body("vtt", [])) == ("", "", "WEBVTT\n\n")


def test_diarized_json_says_who_speaks() -> None:
    found = TranscriptionDiarized.model_validate(answer("diarized_json", SPOKEN))
    assert [(s.id, s.speaker, s.text) for s in found.segments] == [
        ("seg_000", "A", "Hello there."),
        ("seg_001", "Ada Byron", "Go --> north."),
        ("seg_002", "A", "Goodbye."),
    ]
    assert (found.text, found.duration) == ("Hello there. Go --> north. Goodbye.", 3664.004)
    assert {s["speaker"] for s in answer("diarized_json")["segments"]} == {"A"}


def test_channels_are_speakers_in_the_order_of_time() -> None:
    heard = [
        window(segment("One two three.", 0.0, 4.0), until=5.0, channel=0),
        window(segment("No.", 1.0, 1.5), until=5.0, channel=1),
    ]
    found = answer("diarized_json", heard)["segments"]
    assert [(s["speaker"], s["text"]) for s in found] == [("A", "One two three."), ("B", "No.")]
    assert [line.split()[7] for line in body("rttm", heard).splitlines()] == ["A", "B"]


def test_rttm() -> None:
    assert body("rttm", SPOKEN).splitlines() == [
        "SPEAKER recording 1 0.000 1.200 <NA> <NA> A <NA> <NA>",
        "SPEAKER recording 1 1.200 1.800 <NA> <NA> Ada_Byron <NA> <NA>",
        "SPEAKER recording 1 3661.000 1.500 <NA> <NA> A <NA> <NA>",
    ]


def test_words_without_times_share_the_time_of_their_segment_by_length() -> None:
    words = list(timed_words(Segment(" It is over", 2.0, 4.0, -0.1, 0.0)))
    assert [(w.text, round(w.start_s, 2), round(w.end_s, 2)) for w in words] == [
        ("It", 2.0, 2.5),
        ("is", 2.5, 3.0),
        ("over", 3.0, 4.0),
    ]
    assert list(timed_words(Segment("  ", 2.0, 4.0, -0.1, 0.0))) == []


def test_parts_of_words_are_attached() -> None:
    words = (Word(" twenty", 0, 1, 1.0), Word("-one", 1, 2, 1.0), Word(" ", 2, 2, 1.0))
    found = list(timed_words(Segment(" twenty-one", 0, 2, -0.1, 0.0, words=words)))
    assert [(w.text, w.attached) for w in found] == [("twenty", False), ("-one", True)]


# --- Events


async def sent(windows: Sequence[TranscriptWindow], **contents: Any) -> list[dict[str, Any]]:
    async def source() -> AsyncGenerator[TranscriptWindow]:
        for each in windows:
            yield each

    parts = [part async for part in events(source(), TranscriptContents(**contents))]
    return events_of(b"".join(parts).decode())


async def test_events_are_those_of_openais_client() -> None:
    *deltas, done = await sent(HEARD)
    assert [TranscriptionTextDeltaEvent.model_validate(delta).delta for delta in deltas] == [
        "Hello there. Go --> north.",
        " Goodbye.",
    ]
    end = TranscriptionTextDoneEvent.model_validate(done)
    assert end.text == "".join(delta["delta"] for delta in deltas) == answer("json")["text"]
    assert end.usage and end.languages
    assert (end.usage.input_tokens, end.usage.output_tokens) == (round(3664.004 * 50), 3)
    assert (done["usage"]["seconds"], end.languages[0].code) == (3664.004, "en")
    assert "logprobs" not in done


async def test_events_have_log_probabilities_if_they_are_asked_for() -> None:
    first, second, done = await sent(HEARD, log_probabilities=True)
    found = TranscriptionTextDeltaEvent.model_validate(first).logprobs
    assert found and found[0].bytes == [*b"Hello"]
    assert TranscriptionTextDoneEvent.model_validate(done).logprobs
    assert done["logprobs"] == first["logprobs"] + second["logprobs"]


async def test_events_of_a_diarized_recording_have_its_segments_at_the_end() -> None:
    found = await sent(SPOKEN, form="diarized_json")
    assert [event["type"].rpartition(".")[2] for event in found] == ["delta"] * 2 + ["segment"] * 3 + ["done"]
    segments = [TranscriptionTextSegmentEvent.model_validate(event) for event in found[2:5]]
    assert [(s.speaker, s.text, s.start) for s in segments][1] == ("Ada Byron", "Go --> north.", 1.25)


async def test_no_words_are_no_delta() -> None:
    (done,) = await sent([window(until=3.0)])
    assert (done["type"], done["text"], done["languages"]) == ("transcript.text.done", "", [])


@pytest.mark.parametrize("form", ["json", "text", "srt", "vtt", "verbose_json", "diarized_json", "rttm"])
def test_every_format_has_its_media_type(form: str) -> None:
    found = rendered(HEARD, TranscriptContents(cast("TranscriptFormat", form))).headers["content-type"]
    kind = "application/json" if form.endswith("json") else "text/vtt" if form == "vtt" else "text/plain"
    assert found.partition(";")[0] == kind
