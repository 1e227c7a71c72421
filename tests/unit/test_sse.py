"""Server-sent events as simple clients read them: `data: ` begins an event, and no line is long."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from deployments.audio.formats import FORMATS, AudioFormat
from deployments.engines.protocols import AudioChunk, Segment, SpeechRequest, SpeechTraits, Token, Transcript
from deployments.replica.wire import PackedChunk, pack
from deployments.tasks.separation import Merged
from deployments.tasks.transcription import TranscriptWindow
from serve_app.gateway.routes import separations
from serve_app.gateway.separation_progress import SeparationProgress
from serve_app.gateway.sse import event
from serve_app.gateway.stem_sounds import encoded
from serve_app.gateway.transcript_events import events as transcript_events
from serve_app.gateway.transcript_formats import TranscriptContents
from tests.unit.fakes import RATE, TRAITS
from tests.unit.jumping_clock import run
from tests.unit.test_speech_stream import Bench, Event, event_of, events, plan, resumed

MAX_LINE = 32 * 1024
FORMATS_OF_SPEECH: Sequence[AudioFormat] = tuple(FORMATS)
NOISE = np.random.default_rng(7).uniform(-1.0, 1.0, 48_000 * 4).astype(np.float32)


HELLO = Segment(" Hello there.", 0.0, 1.25, -0.2, 0.01, (), (), language="en")


def longest_line(sent: Sequence[bytes]) -> int:
    return max(len(line) for item in sent for line in item.split(b"\n"))


async def noisy(request: SpeechRequest) -> AsyncIterator[PackedChunk]:
    """One chunk of seconds of noise, the worst case of every codec."""
    yield pack(AudioChunk(NOISE, RATE, 0, request.pieces[0], True, piece_over=True))


async def spoken(bench: Bench, form: AudioFormat, traits: SpeechTraits = TRAITS) -> list[bytes]:
    return [item async for item in bench.stream(plan(("Hm.",), traits, form=form, played=False)).events()]


def test_the_data_is_the_first_line_of_an_event() -> None:
    assert event({"a": "ü\n"}, "k-1b2") == 'data: {"a":"ü\\n"}\nid: k-1b2\n\n'.encode()
    assert event({"a": 1}) == b'data: {"a":1}\n\n'


def test_a_client_that_splits_at_data_finds_every_event() -> None:
    sent = event({"n": 1}, "k-1") + event({"n": 2}) + event({"n": 3}, "k-3")
    found = [json.loads(part.split("\n")[0]) for part in sent.decode().split("data: ") if part]
    assert [item["n"] for item in found] == [1, 2, 3]


@pytest.mark.parametrize("rate", [8_000, 24_000, 48_000])
@pytest.mark.parametrize("form", FORMATS_OF_SPEECH)
def test_no_line_of_a_speech_is_long(form: AudioFormat, rate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        bench = Bench()
        monkeypatch.setattr(bench.late, "speak", noisy)
        sent = await spoken(bench, form, replace(TRAITS, sample_rate=rate))
        assert longest_line(sent) < MAX_LINE

    run(test)


@pytest.mark.parametrize("form", FORMATS_OF_SPEECH)
def test_a_client_resumes_exactly_after_every_event_of_a_long_chunk(
    form: AudioFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        bench, wanted = Bench(), plan(("Hm.",), form=form, played=False)
        monkeypatch.setattr(bench.late, "speak", noisy)
        sent = [event_of(item) for item in await spoken(bench, form)]
        ids = [number for number, item in enumerate(sent) if item.id]
        assert len(ids) > 8
        for number in (*ids[:3], *ids[3::7], ids[-1]):
            again = await resumed(bench, wanted, sent[number].id)
            assert sound_of([*sent[: number + 1], *again]) == sound_of(sent)

    run(test)


def test_a_paced_client_gets_as_long_lines_and_resumes_exactly() -> None:
    async def test() -> None:
        bench, wanted = Bench(), plan()
        sent = await events(bench.stream(wanted))
        for number in [number for number, item in enumerate(sent) if item.id]:
            assert sound_of([*sent[: number + 1], *await resumed(bench, wanted, sent[number].id)]) == sound_of(sent)

    run(test)


def sound_of(sent: Sequence[Event]) -> bytes:
    return b"".join(item.audio for item in sent)


@pytest.mark.parametrize("form", ["wav", "flac", "mp3"])
async def test_no_line_of_a_separation_is_long(form: AudioFormat) -> None:
    async def merged() -> AsyncGenerator[Merged]:
        for _ in range(2):
            yield Merged({"voice": np.stack([NOISE, -NOISE]), "rest": np.stack([NOISE, NOISE])}, 48_000)

    progress = SeparationProgress(1.0)
    sent = [item async for item in separations._events(merged(), ("voice", "rest"), form, progress)]
    assert longest_line(sent) < MAX_LINE
    whole = [part async for part in encoded(merged(), ("voice", "rest"), form)]
    for stem in ("voice", "rest"):
        parts = [item.audio for item in map(event_of, sent) if item.data.get("stem") == stem]
        assert b"".join(parts) == b"".join(data for name, data in whole if name == stem)


async def test_no_line_of_a_transcript_with_log_probabilities_is_long() -> None:
    text = "-" * 60
    tokens = tuple(Token(text, -0.123456, text.encode()) for _ in range(448))
    heard = [TranscriptWindow(Transcript((HELLO,), "en", tokens=tokens), 30.0, tokens=448) for _ in range(3)]

    async def windows() -> AsyncGenerator[TranscriptWindow]:
        for window in heard:
            yield window

    sent = [item async for item in transcript_events(windows(), TranscriptContents("json", log_probabilities=True))]
    assert longest_line(sent) < MAX_LINE
    *deltas, done = [event_of(item).data for item in sent]
    assert sum(len(delta["logprobs"]) for delta in deltas) == 3 * 448
    assert "".join(delta["delta"] for delta in deltas) == done["text"] == "Hello there. Hello there. Hello there."
    assert "logprobs" not in done
