"""`motet wyoming` beside a running service, with Wyoming's own client."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai import OpenAI
from wyoming.asr import Transcribe, Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeVoice,
)

from deployments.audio.resample import resample
from serve_app.bench.running_service import free_loopback_port

from .conftest import PANGRAM, ROOT, Float, Service, encoded, from_int16, heard_in, wait_for, word_errors

ANSWER_S = 60.0
STOP_S = 20.0
RATE = 16_000


@contextmanager
def bridge_to(url: str, output: Path) -> Iterator[str]:
    """The address of a bridge to the service; the bridge ends with status 0."""
    port = free_loopback_port()
    address = f"tcp://127.0.0.1:{port}"
    command = [sys.executable, "-m", "serve_app.cli.main", "wyoming", "--listen", address, "--service", url]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MOTET_")}
    with output.open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=clean, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: _listens(port), ANSWER_S, "the bridge")
        yield address
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S) == 0, output.read_text()
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port)):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def bridge(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with bridge_to(service.url, tmp_path_factory.mktemp("wyoming") / "bridge.log") as address:
        yield address


async def until(client: AsyncClient, kind: type[Any]) -> list[Event]:
    """Every event up to one of that kind."""
    found: list[Event] = []
    async with asyncio.timeout(ANSWER_S):
        while (event := await client.read_event()) is not None:
            assert not Error.is_type(event.type) or kind is Error, event
            found.append(event)
            if kind.is_type(event.type):
                return found
    raise AssertionError(f"the connection ended after {found}")


def sound_of(events: list[Event]) -> tuple[Float, int]:
    chunks = [AudioChunk.from_event(event) for event in events if AudioChunk.is_type(event.type)]
    assert {(chunk.width, chunk.channels) for chunk in chunks} == {(2, 1)}
    return from_int16(b"".join(chunk.audio for chunk in chunks)), chunks[0].rate


def heard(client: OpenAI, events: list[Event]) -> str:
    samples, rate = sound_of(events)
    return heard_in(client, encoded(samples, rate, "WAV"))


async def test_home_assistant_finds_models_voices_and_languages(bridge: str) -> None:
    async with AsyncClient.from_uri(bridge) as client:
        await client.write_event(Describe().event())
        info = Info.from_event((await until(client, Info))[-1])
    (asr,), (tts,) = info.asr, info.tts
    languages = {model.name: model.languages for model in asr.models}
    assert {"en", "de"} <= set(languages["whisper-base"])
    assert {voice.name: voice.languages for voice in tts.voices} == {"heart": ["en-US"]}
    assert asr.supports_transcript_streaming
    assert tts.supports_synthesize_streaming


async def test_a_text_is_spoken(bridge: str, client: OpenAI) -> None:
    async with AsyncClient.from_uri(bridge) as wyoming:
        await wyoming.write_event(Synthesize(PANGRAM).event())
        events = await until(wyoming, AudioStop)
    assert AudioStart.is_type(events[0].type)
    assert word_errors(heard(client, events), PANGRAM) < 0.1


async def test_a_voice_is_chosen_by_its_name(bridge: str) -> None:
    async with AsyncClient.from_uri(bridge) as client:
        await client.write_event(Synthesize("Good morning.", SynthesizeVoice(name="heart")).event())
        assert len(sound_of(await until(client, AudioStop))[0]) > 10_000
        await client.write_event(Synthesize("Good morning.", SynthesizeVoice(name="nobody")).event())
        error = Error.from_event((await until(client, Error))[-1])
    assert (error.code, error.text) == ("voice_not_found", "There is no voice 'nobody'. Known: heart.")


async def test_a_text_is_spoken_while_it_is_written(bridge: str, client: OpenAI) -> None:
    first, second = "The quick brown fox jumps over the lazy dog. ", "Then it sleeps under a tree."
    async with AsyncClient.from_uri(bridge) as wyoming:
        await wyoming.write_event(SynthesizeStart().event())
        for word in first.split(" "):
            await wyoming.write_event(SynthesizeChunk(f"{word} ").event())
        begun = await until(wyoming, AudioChunk)
        # As Home Assistant ends: the whole text once more, for servers that do not take parts.
        for event in (SynthesizeChunk(second), Synthesize(first + second), SynthesizeStop()):
            await wyoming.write_event(event.event())
        events = begun + await until(wyoming, SynthesizeStopped)
    assert [event.type for event in events if event.type != "audio-chunk"] == [
        "audio-start",
        "audio-stop",
        "synthesize-stopped",
    ]
    assert word_errors(heard(client, events), first + second) < 0.1


async def said_by(bridge: str, samples: Float, *, convert: Callable[[Float], bytes], **form: int) -> list[Event]:
    async with AsyncClient.from_uri(bridge) as client:
        await client.write_event(Transcribe(language="en").event())
        await client.write_event(AudioStart(**form).event())
        for part in np.array_split(samples, 50):
            await client.write_event(AudioChunk(**form, audio=convert(part)).event())
        await client.write_event(AudioStop().event())
        return await until(client, TranscriptStop)


def as_int16(samples: Float) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


def check_transcript(events: list[Event]) -> None:
    kinds = [event.type for event in events]
    assert (kinds[0], kinds[-2:]) == ("transcript-start", ["transcript", "transcript-stop"])
    assert TranscriptStart.from_event(events[0]).language == "en"
    text = Transcript.from_event(events[-2]).text
    parts = [TranscriptChunk.from_event(event).text for event in events if TranscriptChunk.is_type(event.type)]
    assert word_errors(text, PANGRAM) < 0.1
    assert "".join(parts).split() == text.split()


async def test_speech_becomes_text(bridge: str, pangram: Float) -> None:
    samples = resample(pangram, 24_000, RATE)
    check_transcript(await said_by(bridge, samples, convert=as_int16, rate=RATE, width=2, channels=1))


async def test_several_clients_are_answered_at_once_and_sound_may_have_another_format(
    bridge: str, client: OpenAI, pangram: Float
) -> None:
    def as_stereo(samples: Float) -> bytes:
        return (np.repeat(samples, 2) * 2147483000).astype("<i4").tobytes()

    async def spoken() -> list[Event]:
        async with AsyncClient.from_uri(bridge) as wyoming:
            await wyoming.write_event(Synthesize(PANGRAM).event())
            return await until(wyoming, AudioStop)

    transcript, *speech = await asyncio.gather(
        said_by(bridge, pangram, convert=as_stereo, rate=24_000, width=4, channels=2), spoken(), spoken()
    )
    check_transcript(transcript)
    for events in speech:
        assert word_errors(heard(client, events), PANGRAM) < 0.1


async def test_a_service_that_is_down_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    with bridge_to(f"http://127.0.0.1:{free_loopback_port()}", tmp_path / "bridge.log") as address:
        for request in (Describe(), Synthesize("Hello.")):
            async with AsyncClient.from_uri(address) as client:
                await client.write_event(request.event())
                error = Error.from_event((await until(client, Error))[-1])
            assert error.code == "service_unavailable"
            assert "motet serve" in error.text
