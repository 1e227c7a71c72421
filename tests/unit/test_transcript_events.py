"""The events of a transcription: the times of words, and who speaks."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

from deployments.engines.protocols import Segment, Transcript, Word
from deployments.tasks.diarization import SpeakerTurn
from deployments.tasks.transcription import TranscriptWindow
from serve_app.gateway.transcript_events import MAX_WORDS, events
from serve_app.gateway.transcript_formats import TranscriptContents

WORDS = TranscriptContents("verbose_json", segments=False, words=True)


def window(text: str, start: float, turns: tuple[SpeakerTurn, ...] = ()) -> TranscriptWindow:
    """A window in which each word takes a tenth of a second."""
    texts = text.split()
    words = tuple(
        Word(f" {word}", round(start + i / 10, 3), round(start + i / 10 + 0.1, 3), 0.9) for i, word in enumerate(texts)
    )
    end = start + len(texts) / 10
    segment = Segment(f" {text}", start, end, -0.1, 0.0, words=words)
    return TranscriptWindow(Transcript((segment,), "en"), end, turns=turns)


async def told(*windows: TranscriptWindow, contents: TranscriptContents = WORDS) -> list[dict[str, Any]]:
    async def arriving() -> AsyncGenerator[TranscriptWindow]:
        for each in windows:
            yield each

    lines = [block.decode().partition("data: ")[2] async for block in events(arriving(), contents)]
    return [json.loads(line) for line in lines]


async def test_a_delta_has_the_times_of_its_words() -> None:
    first, second, last = await told(window("good morning", 0.0), window("to you", 1.0))
    assert first["words"] == [
        {"word": "good", "start": 0.0, "end": 0.1},
        {"word": "morning", "start": 0.1, "end": 0.2},
    ]
    assert [word["word"] for word in second["words"]] == ["to", "you"]
    assert last["text"] == first["delta"] + second["delta"] == "good morning to you"


async def test_many_words_are_divided_between_events_and_their_text_comes_once() -> None:
    long = " ".join(["word"] * (MAX_WORDS + 1))
    first, second, last = await told(window(long, 0.0))
    assert (len(first["words"]), len(second["words"])) == (MAX_WORDS, 1)
    assert (first["delta"], second["delta"], last["text"]) == (long, "", long)


async def test_speakers_follow_at_the_end() -> None:
    turns = (SpeakerTurn(0.0, 0.2, "A"), SpeakerTurn(0.2, 0.4, "B"))
    found = await told(window("good morning to you", 0.0, turns))
    segments = [event for event in found if event["type"] == "transcript.text.segment"]
    assert [(each["speaker"], each["text"]) for each in segments] == [("A", "good morning"), ("B", "to you")]
    assert found[-1]["type"] == "transcript.text.done"


async def test_without_words_or_speakers_there_is_only_text() -> None:
    first, last = await told(window("good morning", 0.0), contents=TranscriptContents())
    assert first == {"type": "transcript.text.delta", "delta": "good morning"}
    assert last["type"] == "transcript.text.done"
