"""SSML and lexicons through the whole application, over stand-ins."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from tests.unit.fakes import RATE, tone
from tests.unit.jumping_clock import run
from tests.unit.test_api import Bench, events_of, ids_of, pcm_of
from tests.unit.test_speech_sessions import CONFIG, DONE, conversation, text

DOCUMENT = (
    "<speak>Hello <sub alias='big world'>W</sub>.<break time='500ms'/>"
    "<prosody rate='fast' pitch='high'><voice name='bo'>Good bye.</voice></prosody></speak>"
)


async def test_a_document_is_spoken_with_its_pauses() -> None:
    answer = await Bench().speak(input=DOCUMENT, input_type="ssml")
    assert answer.status_code == 200
    first, silence = tone("Hello big world."), np.zeros(RATE // 2)
    sound = pcm_of(answer.content)
    np.testing.assert_allclose(sound[: len(first) + len(silence)], np.concatenate([first, silence]), atol=1e-3)
    assert answer.headers["x-motet-ignored"] == "prosody.pitch"


async def test_equal_documents_are_equal_bytes() -> None:
    bench = Bench()
    one, two = [await bench.speak(input=DOCUMENT, input_type="ssml", response_format="mp3") for _ in range(2)]
    assert one.content == two.content


async def test_events_say_what_was_written_and_what_was_spoken() -> None:
    answer = await Bench().speak(input=DOCUMENT, input_type="ssml", stream_format="sse")
    events = events_of(answer.text)
    pieces = [piece for event in events for piece in event.get("pieces", ())]
    assert [(p["text"], p.get("spoken")) for p in pieces] == [("Hello W.", "Hello big world."), ("Good bye.", None)]
    assert events[-1]["usage"]["input_tokens"] == len("Hello W.Good bye.")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": "<speak>A <audio/></speak>", "input_type": "ssml"}, "<audio>"),
        ({"input": "<!DOCTYPE a><speak>A</speak>", "input_type": "ssml"}, "document type"),
        ({"input": "A", "input_type": "html"}, "input_type"),
        ({"input": "A", "lexicon": {"A": ""}}, "lexicon"),
        ({"input": "A", "lexicon": {str(n): "x" for n in range(65)}}, "lexicon"),
    ],
)
async def test_what_cannot_be_read_is_refused(fields: dict[str, Any], message: str) -> None:
    answer = await Bench().speak(**fields)
    assert answer.status_code == 400
    assert message in json.dumps(answer.json()["error"])


async def test_a_lexicon_of_a_request_adds_to_that_of_the_configuration() -> None:
    bench = Bench(speech={"lexicon": {"W": "wide", "V": "very"}})
    answer = await bench.speak(input="W and V and Q.", lexicon={"V": "velvet", "q": "quiet"})
    np.testing.assert_allclose(pcm_of(answer.content), tone("wide and velvet and quiet."), atol=1e-3)


def test_a_session_takes_documents() -> None:
    async def test() -> None:
        config = {**CONFIG, "input_type": "ssml", "lexicon": {"V": "velvet"}}
        documents = [text("<speak>One V.</speak>"), text("<speak><p>Two <sub alias='too'>2</sub>.</p></speak>")]
        got = await conversation(Bench(), config, *documents, DONE)
        assert got[-1] == 1000
        starts = [event for event in got if isinstance(event, dict) and event["type"] == "audio.start"]
        assert [(e["sentence_text"], e["spoken"]) for e in starts] == [
            ("One V.", "One velvet."),
            ("Two 2.", "Two too."),
        ]

    run(test)


def test_a_session_names_the_element_that_it_does_not_know() -> None:
    async def test() -> None:
        got = await conversation(Bench(), {**CONFIG, "input_type": "ssml"}, text("<speak><audio/></speak>"))
        assert "<audio>" in json.dumps(got[-2]) and got[-1] == 1008

    run(test)


@pytest.mark.parametrize("form", ["pcm", "mp3", "flac"])
async def test_a_client_reconnects_anywhere_also_in_a_pause(form: str) -> None:
    bench = Bench()
    body = {"model": "tone", "input": DOCUMENT, "input_type": "ssml", "response_format": form, "stream_format": "sse"}
    whole = (await bench.client.post("/v1/audio/speech", json=body)).text
    ids = ids_of(whole)
    assert len(ids) > 1
    for number, event_id in enumerate(ids[:-1]):
        rest = await bench.client.post("/v1/audio/speech", json=body, headers={"Last-Event-ID": event_id})
        sounds = [event["audio"] for event in events_of(whole) if "audio" in event]
        assert audio_in(rest.text) == b"".join(map(base64.b64decode, sounds[number + 1 :]))


async def test_another_lexicon_or_pause_is_another_stream() -> None:
    bench = Bench()
    body = {"input": DOCUMENT, "input_type": "ssml", "stream_format": "sse"}
    (event_id, *_) = ids_of((await bench.speak(**body)).text)
    for change in ({"lexicon": {"Hello": "Hallo"}}, {"input": DOCUMENT.replace("500ms", "600ms")}):
        asked = {"model": "tone", "response_format": "pcm", **body, **change}
        answer = await bench.client.post("/v1/audio/speech", json=asked, headers={"Last-Event-ID": event_id})
        assert answer.json()["error"]["code"] == "event_id_mismatch"


def audio_in(text: str) -> bytes:
    return b"".join(base64.b64decode(event["audio"]) for event in events_of(text) if "audio" in event)


def test_a_played_document_keeps_its_pauses() -> None:
    """A pause is sound: it is not concealed, and as long as it is in a fast stream."""

    async def test() -> None:
        body = {"input": DOCUMENT.replace("500ms", "3s"), "input_type": "ssml"}
        fast, played = [await Bench().speak(**body, pacing=pacing) for pacing in ("fast", "played")]
        assert fast.content == played.content

    run(test)
