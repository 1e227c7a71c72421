"""One speech request with a model that is late: what is said by whom, what is told, and what a client that comes back hears."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pytest

from deployments.audio.encode import AudioFormat
from deployments.engines.base import AudioChunk, Samples, SpeechRequest, SpeechTraits
from deployments.speaking import SpeechTask
from deployments.wire import PackedChunk, pack
from serve_app.admission import Admission
from serve_app.config import AppConfig, Model, Pacing
from serve_app.piece_cache import PieceCache
from serve_app.placement import ModelDirectory
from serve_app.speech_stream import Fallback, SpeechPlan, SpeechStream
from tests.unit.fakes import RATE, TRAITS, FakeHandle
from tests.unit.jumping_clock import now, run

CHUNK = int(0.2 * RATE)
CONFIG = AppConfig(models={"late": Model(engine="simulated"), "other": Model(engine="simulated")})
PIECES = ("This is the first of them.", "Here is the second one.", "And that was the third.")
PACING = Pacing(frame_ms=200.0, fallback_after_ms=2000.0)


def sound_of(voice: str, text: str, chunks: int = 4) -> Samples:
    """Noise, other for each voice and text, of 16 bits."""
    seed = np.frombuffer(f"{voice} {text}".encode(), np.uint8).tolist()
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, chunks * CHUNK)
    whole: Samples = (np.rint(samples * 32768) / 32768).astype(np.float32)
    return whole


@dataclass
class Late:
    """Says each piece in four chunks of 0.2 s; before chunk `c` of piece `p` it takes `delays[p, c]` seconds."""

    voice: str
    delays: dict[tuple[int, int], float] = field(default_factory=dict)
    asked: list[SpeechRequest] = field(default_factory=list)

    async def speak(self, request: SpeechRequest) -> AsyncIterator[PackedChunk]:
        self.asked.append(request)
        for place, text in enumerate(request.pieces):
            index, parts = request.first_index + place, np.split(sound_of(self.voice, text), 4)
            for number, samples in enumerate(parts):
                await asyncio.sleep(self.delays.get((index, number), 0.0))
                over = number == len(parts) - 1
                last = over and place == len(request.pieces) - 1
                yield pack(AudioChunk(samples, RATE, index, text, last, piece_over=over))


class Recorder:
    """Nobody measures here."""

    def stage(self, *_: Any) -> None: ...

    def first_sound(self, *_: Any) -> None: ...

    def played(self, *_: Any) -> None: ...


class Bench:
    """A model that is late, another, and the gateway's memory of what was said."""

    def __init__(self, delays: dict[tuple[int, int], float] | None = None) -> None:
        self.late, self.other = Late("ada", delays or {}), Late("bo")
        handles: Any = {"late": {"cpu": FakeHandle(self.late)}, "other": {"cpu": FakeHandle(self.other)}}
        self._directory = ModelDirectory(CONFIG, handles)
        self._admission = Admission(CONFIG.speech.admission)
        self._cache = PieceCache(CONFIG.speech.piece_cache_bytes)

    def stream(self, plan: SpeechPlan) -> SpeechStream:
        ticket = self._admission.admit(["late@cpu"], None, 1.0)
        return SpeechStream(plan, self._directory, self._cache, ticket, cast("Any", Recorder()), clock=now)


def plan(
    pieces: tuple[str, ...] = PIECES,
    traits: SpeechTraits = TRAITS,
    *,
    form: AudioFormat = "pcm",
    fallback: bool = True,
    played: bool = True,
) -> SpeechPlan:
    return SpeechPlan(
        model="late",
        task=SpeechTask(pieces, "ada", 1.0, 0),
        traits=traits,
        audio_format=form,
        pacing=PACING,
        played=played,
        request_seconds_of_audio=1.0,
        fallback=Fallback("other", "bo", TRAITS) if fallback else None,
    )


@dataclass(frozen=True, slots=True)
class Event:
    """One event as a client reads it."""

    id: str | None
    data: dict[str, Any]

    @property
    def audio(self) -> bytes:
        return base64.b64decode(self.data.get("audio", ""))


def event_of(text: bytes) -> Event:
    *first, data = text.decode().strip().split("\n")
    return Event(first[0].removeprefix("id: ") if first else None, json.loads(data.removeprefix("data: ")))


async def events(stream: SpeechStream, skip_bytes: int = 0) -> list[Event]:
    async with aclosing(stream.events(skip_bytes)) as told:
        return [event_of(item) async for item in told]


def heard(told: list[Event]) -> Samples:
    return np.frombuffer(b"".join(event.audio for event in told), "<i2").astype(np.float32) / np.float32(32768)


def spoken(voice: str, *texts: str) -> Samples:
    return np.concatenate([sound_of(voice, text) for text in texts])


def test_the_other_voice_says_the_cut_piece_again_and_the_rest_and_the_listener_is_told() -> None:
    async def test() -> None:
        bench = Bench({(1, 2): 3600.0})
        told = await events(bench.stream(plan()))
        own = np.concatenate([spoken("ada", PIECES[0]), spoken("ada", PIECES[1])[: 2 * CHUNK]])
        np.testing.assert_array_equal(heard(told)[: len(own)], own)
        rest = spoken("bo", *PIECES[1:])
        np.testing.assert_array_equal(heard(told)[-len(rest) + CHUNK :], rest[CHUNK:])  # its beginning fades in
        concealed = [event.data for event in told if event.data["type"] == "speech.audio.concealed"]
        assert (concealed[0]["fallback"], concealed[0]["fallback_piece"]) == (False, None)
        assert (concealed[-1]["fallback"], concealed[-1]["fallback_piece"]) == (True, 1)
        assert [request.first_index for request in bench.other.asked] == [1, 2], "no more at once than of the model"

    run(test)


def test_another_voice_from_the_start_is_told_too() -> None:
    async def test() -> None:
        told = await events(Bench({(0, 0): 3600.0}).stream(plan()))
        np.testing.assert_array_equal(heard(told), spoken("bo", *PIECES))
        (concealed,) = [event.data for event in told if event.data["type"] == "speech.audio.concealed"]
        assert (concealed["concealed_seconds"], concealed["fallback_piece"]) == (0.0, 0)

    run(test)


SCRIPT = ("Speaker 1: Good morning to you.", "Speaker 2: Is it? Speaker 1: It is.", "Speaker 1: Good night then.")


@pytest.mark.parametrize("speakers", [1, 2])
def test_one_voice_reads_the_words_of_a_script_and_not_its_marks(speakers: int) -> None:
    """What is no script for the model is plain text, and read as it is."""

    async def test() -> None:
        bench = Bench({(1, 0): 3600.0})
        await events(bench.stream(plan(SCRIPT, replace(TRAITS, most_speakers=speakers))))
        words = [piece for request in bench.other.asked for piece in request.pieces]
        assert words == (["Is it? It is.", "Good night then."] if speakers > 1 else list(SCRIPT[1:]))
        assert [request.first_index for request in bench.other.asked] == [1, 2]

    run(test)


def test_the_other_voice_speaks_as_fast_as_was_asked_for() -> None:
    async def test() -> None:
        bench = Bench({(0, 0): 3600.0})
        fast = plan()
        await events(bench.stream(replace(fast, task=replace(fast.task, speed=1.5))))
        assert {request.speed for request in bench.other.asked} == {1.5}

    run(test)
