"""Written texts through the whole application, over stand-ins."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.unit.fakes import tone
from tests.unit.jumping_clock import run
from tests.unit.test_api import Bench, events_of, pcm_of
from tests.unit.test_speech_sessions import CONFIG, DONE, conversation, text

WRITTEN = "# Plan\n\nSee [the *site*](http://example.com) and mail a@example.com, or not 👍."
LEFT = "See the site and mail a at example dot com, or not, thumbs up."


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in's voice is of no language."""
    monkeypatch.setattr("deployments.tasks.piece_preparation.language_of", lambda traits, voice: "en-US")


async def pieces_of(bench: Bench, **fields: Any) -> list[tuple[str, str | None]]:
    answer = await bench.speak(**fields, stream_format="sse")
    events = events_of(answer.text)
    return [(p["text"], p.get("spoken")) for event in events for p in event.get("pieces", ())]


async def test_a_request_is_read_by_default() -> None:
    shown = "See the site and mail a@example.com, or not 👍."
    assert await pieces_of(Bench(), input=WRITTEN) == [("Plan", None), (shown, LEFT)]


@pytest.mark.parametrize(
    ("normalize", "spoken"), [(False, "It is 5 km."), ({"units": False, "numbers": False}, "It is 5 km.")]
)
async def test_a_request_and_the_configuration_turn_rules_off(normalize: Any, spoken: str) -> None:
    for bench, fields in ((Bench(), {"normalize": normalize}), (Bench(speech={"normalize": normalize}), {})):
        answer = await bench.speak(input="It is 5 km.", **fields)
        np.testing.assert_allclose(pcm_of(answer.content), tone(spoken), atol=1e-3)


async def test_a_request_turns_rules_on_again() -> None:
    answer = await Bench(speech={"normalize": False}).speak(input="It is 5 km.", normalize={"units": True})
    np.testing.assert_allclose(pcm_of(answer.content), tone("It is five kilometers."), atol=1e-3)


@pytest.mark.parametrize("normalize", [{"emojis": False}, "no", 1, {"emoji": "no"}])
async def test_an_unknown_rule_is_refused(normalize: Any) -> None:
    answer = await Bench().speak(input="Hello.", normalize=normalize)
    assert answer.status_code == 400
    assert "normalize" in json.dumps(answer.json()["error"])


def test_a_session_reads_a_text_that_arrives_in_parts() -> None:
    async def test() -> None:
        got = await conversation(Bench(), CONFIG, text("It is **ve"), text("ry** far: 5"), text("0 km.\n\n"), DONE)
        starts = [event for event in got if isinstance(event, dict) and event["type"] == "audio.start"]
        assert [(e["sentence_text"], e["spoken"]) for e in starts] == [
            ("It is very far: 50 km.", "It is very far: fifty kilometers.")
        ]

    run(test)


async def test_the_words_of_a_lexicon_and_of_ssml_are_not_read_again() -> None:
    assert await pieces_of(Bench(), input="It is 5 km, 5 lb.", lexicon={"5 km": "5 clicks"}) == [
        ("It is 5 km, 5 lb.", "It is 5 clicks, five pounds.")
    ]
    document = "<speak>It is <sub alias='5 clicks'>5 km</sub>, 5 lb, *not* Markdown.</speak>"
    assert (await pieces_of(Bench(), input=document, input_type="ssml"))[0][
        1
    ] == "It is 5 clicks, five pounds, not Markdown."
