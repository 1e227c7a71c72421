"""What a client of the service is told about the quality of pieces, over both ways, and when it is verified."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deployments.engines.protocols import Segment, SpeechRequest, SpeechTraits, Transcript, Window
from deployments.errors import Failure, MotetError
from deployments.replica.wire import PackedChunk, pack
from deployments.settings import SpilloverSettings
from serve_app.gateway.speech.models import SpeechModels
from tests.unit.fakes import ToneSynthesizer
from tests.unit.speech_sounds import TRAITS, NoisyEngine
from tests.unit.test_api import Bench, Ear, events_of
from tests.unit.test_piece_checks import BAD, TEXTS, spoiled
from tests.unit.test_speech_sessions import DONE, conversation, text

TEXT = " ".join(TEXTS)


class Speaker(ToneSynthesizer):
    """A replica that speaks with sounds that are measured like speech, in whole pieces."""

    def __init__(self, bad: dict[str, Any]) -> None:
        super().__init__()
        self.noisy = NoisyEngine(spoiled=bad)

    async def traits(self) -> SpeechTraits:
        return replace(TRAITS, exact=True)

    async def speak(self, request: SpeechRequest) -> AsyncIterator[PackedChunk]:
        self.noisy.opened = 0
        utterance = self.noisy.open(request)
        for chunk in utterance.chunks:
            yield pack(chunk)


class Reader(Ear):
    """Hears one text after the other, and notes in which language it listens."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self.texts = list(texts)
        self.languages: list[str | None] = []

    async def transcribe(self, window: Window, index: int) -> Transcript:
        self.languages.append(window.options.language)
        return Transcript((Segment(self.texts.pop(0), 0.0, 1.0, -0.1, 0.0),), "en")


def quality_events(answer: str) -> list[dict[str, Any]]:
    return [event for event in events_of(answer) if event["type"] == "speech.audio.quality"]


async def test_a_fault_that_was_mended_is_an_event_and_counted() -> None:
    bench = Bench(Speaker({BAD: spoiled("silent")}))
    answer = (await bench.speak(input=TEXT, stream_format="sse")).text
    assert quality_events(answer) == [
        {
            "type": "speech.audio.quality",
            "index": 3,
            "text": BAD,
            "faults": [],
            "first_faults": ["silent"],
            "attempts": 2,
        }
    ]
    assert events_of(answer)[-1]["quality"] == {"pieces": 5, "made_again": 1, "faulty": 0, "faults": []}
    assert [quality.attempts for quality in bench.recorder.qualities] == [1, 1, 1, 2, 1]


async def test_a_session_gets_the_same_event() -> None:
    bench = Bench(Speaker({BAD: spoiled("silent")}))
    config = {"type": "session.config", "model": "tone", "response_format": "pcm"}
    messages = await conversation(bench, config, text(TEXT), DONE)
    found = [m for m in messages if isinstance(m, dict) and m["type"] == "speech.audio.quality"]
    assert [(event["index"], event["attempts"]) for event in found] == [(3, 2)]
    assert messages[-2]["quality"]["made_again"] == 1


async def test_good_pieces_are_no_events_and_checks_can_be_switched_off() -> None:
    answer = (await Bench(Speaker({})).speak(input=TEXT, stream_format="sse")).text
    assert quality_events(answer) == []
    assert events_of(answer)[-1]["quality"]["pieces"] == 5
    off = Bench(Speaker({BAD: spoiled("silent")}), speech={"quality": {"enabled": False}})
    assert "quality" not in events_of((await off.speak(input=TEXT, stream_format="sse")).text)[-1]


async def test_a_verified_piece_is_heard_by_the_first_transcription_model() -> None:
    ear = Reader("Entirely other things were heard.", TEXTS[0])
    bench = Bench(Speaker({}), ear=ear)
    answer = (await bench.speak(input=TEXTS[0], stream_format="sse", verify=True)).text
    (event,) = quality_events(answer)
    assert (event["first_faults"], event["faults"], event["attempts"]) == (["words"], [], 2)
    assert event["heard"] == TEXTS[0]
    assert event["word_error_rate"] == 0.0
    assert ear.languages == ["en", "en"]
    assert events_of(answer)[-1]["quality"]["word_error_rate"] == 0.0


async def test_a_recogniser_that_refuses_does_not_end_the_speech() -> None:
    class Busy(Ear):
        async def transcribe(self, window: Window, index: int) -> Failure:
            return Failure("overloaded", "The memory is full.")

    answer = await Bench(Speaker({}), ear=Busy()).speak(input=TEXTS[0], stream_format="sse", verify=True)
    done = events_of(answer.text)[-1]
    assert done["type"] == "speech.audio.done"
    assert done["quality"] == {"pieces": 1, "made_again": 0, "faulty": 0, "faults": []}


async def test_event_ids_after_a_fault_name_positions_in_the_speech() -> None:
    answer = await Bench(Speaker({TEXTS[0]: spoiled("silent", TEXTS[0])})).speak(input=TEXT, stream_format="sse")
    ids = [line for line in answer.text.split("\n") if line.startswith("id: ")]
    assert all("b" not in line.rpartition("-")[2] for line in ids)


def test_a_service_without_ears_refuses_to_verify() -> None:
    deaf = SimpleNamespace(offered={"tone": SimpleNamespace(task="speech")})
    with pytest.raises(MotetError, match="no transcription model") as refused:
        SpeechModels(cast("Any", deaf), None, None, SpilloverSettings()).verifier(None)
    assert (refused.value.failure.kind, refused.value.failure.param) == ("unsupported", "verify")
