"""A text is spoken completely, in order, in bounded requests, at any speed."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.engines.protocols import AudioChunk, SpeechRequest, VoiceReference
from deployments.errors import MotetError
from deployments.replica.wire import PackedChunk, unpack
from deployments.settings import ArrivalSettings, PieceSettings
from deployments.tasks.in_process_speech import BatchedClient, speak_here
from deployments.tasks.speech import speak, split_speed
from deployments.tasks.voice_choice import choose_voice, speaker_marker
from deployments.text.piece import Piece, as_written
from deployments.text.segmentation import Cutter
from deployments.text.sources import ArrivingText
from tests.unit.fakes import RATE, TRAITS, ToneEngine, ToneSynthesizer, ToneUtterance, tone

PIECES = ("One.", "Two and three.", "Four, five and six.", "Seven.")


def request_of(pieces: tuple[str, ...] = PIECES, speed: float = 1.0) -> SpeechRequest:
    return SpeechRequest(pieces, "ada", speed, seed=7)


class ReplicaClient:
    """Calls a stand-in for the synthesizer, and remembers what it was asked."""

    def __init__(self, synthesizer: ToneSynthesizer | None = None) -> None:
        self.requests: list[SpeechRequest] = []
        self.tempos: list[float] = []
        self._synthesizer = synthesizer or ToneSynthesizer()

    def open(self, request: SpeechRequest, tempo: float) -> ReplicaCall:
        self.requests.append(request)
        self.tempos.append(tempo)
        return ReplicaCall(cast("AsyncGenerator[PackedChunk]", self._synthesizer.speak(request)))


@dataclass
class ReplicaCall:
    packed: AsyncGenerator[PackedChunk]

    async def step(self) -> AudioChunk | None:
        packed = await anext(self.packed, None)
        return None if packed is None else unpack(packed)

    async def close(self) -> None:
        await self.packed.aclose()


async def spoken(request: SpeechRequest, seconds: float) -> list[AudioChunk]:
    return [chunk async for chunk in speak(request, TRAITS, ReplicaClient(), max_request_seconds=seconds)]


async def requests_for(request: SpeechRequest, seconds: float) -> list[SpeechRequest]:
    client = ReplicaClient()
    async for _ in speak(request, TRAITS, client, max_request_seconds=seconds):
        pass
    return client.requests


@given(sizes=st.lists(st.integers(1, 400), min_size=1, max_size=60), seconds=st.floats(0.1, 100))
@settings(max_examples=60)
def test_requests_hold_every_piece_once_in_order_and_are_bounded(sizes: list[int], seconds: float) -> None:
    pieces = tuple("a" * size for size in sizes)
    requests = asyncio.run(requests_for(request_of(pieces), seconds))
    assert tuple(piece for request in requests for piece in request.pieces) == pieces
    assert [request.first_index for request in requests] == [
        sum(len(r.pieces) for r in requests[:at]) for at in range(len(requests))
    ]
    for request in requests:
        assert len(request.pieces) == 1 or sum(map(len, request.pieces)) <= seconds * 15


@pytest.mark.parametrize("seconds", [0.1, 1.5, 1000.0])
async def test_the_sound_is_that_of_the_pieces(seconds: float) -> None:
    chunks = await spoken(request_of(), seconds)
    sound = np.concatenate([c.samples for c in chunks])
    np.testing.assert_allclose(sound, np.concatenate([*map(tone, PIECES)]), rtol=0, atol=2**-15)
    assert [chunk.last for chunk in chunks] == [False, False, False, True]


async def test_a_reader_that_leaves_costs_one_request() -> None:
    synthesizer = ToneSynthesizer()
    chunks = speak(request_of(), TRAITS, ReplicaClient(synthesizer), max_request_seconds=0.1)
    assert (await anext(chunks)).text == "One."
    await chunks.aclose()
    assert synthesizer.closed == 1
    assert synthesizer.engine.batches == [1]


@pytest.mark.parametrize(("speed", "own", "tempo"), [(1, 1, 1), (0.25, 0.5, 0.5), (4, 2, 2), (1.7, 1.7, 1)])
def test_the_model_goes_as_far_as_it_can(speed: float, own: float, tempo: float) -> None:
    assert split_speed(speed, TRAITS) == (own, tempo)


@pytest.mark.parametrize("speed", [0.25, 0.5, 1.0, 3.0, 4.0])
async def test_speed_changes_the_length_and_not_the_pitch(speed: float) -> None:
    pieces = ("a" * 200,)
    samples = np.concatenate([c.samples for c in await spoken(request_of(pieces, speed), 10.0)])
    assert len(samples) / RATE == pytest.approx(2.0 / speed, rel=0.03)
    spectrum = np.abs(np.fft.rfft(samples))
    pitch = np.argmax(spectrum) * RATE / len(samples)
    assert pitch == pytest.approx(200 + 10 * (ord("a") % 64), rel=0.02)


@pytest.mark.parametrize("speed", [0.3, 1.7, 3.0, 4.0])
async def test_a_piece_has_all_of_its_sound_and_waits_for_no_other(speed: float) -> None:
    """Also at speeds that the model cannot make itself, as here none but 1."""
    alone = replace(TRAITS, min_speed=1.0, max_speed=1.0)
    chunks = [chunk async for chunk in speak(request_of(speed=speed), alone, ReplicaClient())]
    assert [chunk.index for chunk in chunks] == [0, 1, 2, 3]
    assert [len(chunk.samples) for chunk in chunks] == [round(len(tone(piece)) / speed) for piece in PIECES]


async def test_in_this_process_it_sounds_the_same() -> None:
    request = request_of(speed=3.0)
    here = np.concatenate([c.samples for c in speak_here(request, ToneEngine())])
    there = np.concatenate([c.samples for c in await spoken(request, 0.5)])
    np.testing.assert_allclose(here, there, rtol=0, atol=2**-12)


@pytest.mark.parametrize(("wanted", "own"), [(None, "ada"), ("bo", "bo"), ("alloy", "bo")])
def test_voices_and_their_aliases(wanted: str | None, own: str) -> None:
    assert choose_voice(wanted, TRAITS, {"alloy": "bo"}) == own


def test_an_unknown_voice_is_answered_with_the_known_ones() -> None:
    with pytest.raises(MotetError, match="ada, bo, alloy") as caught:
        choose_voice("nobody", TRAITS, {"alloy": "bo"})
    assert caught.value.failure.param == "voice"


MIXING = replace(TRAITS, mixes=True)


@pytest.mark.parametrize(
    ("wanted", "own"),
    [
        ("bo", "bo"),
        ("alloy + bo", "bo"),
        ("ada(2)+bo(1)", "ada(0.6667)+bo(0.3333)"),
        ("bo + ada", "ada(0.5000)+bo(0.5000)"),
        ("alloy(1.5)+ada(0.5)", "ada(0.2500)+bo(0.7500)"),
        ("ada(1)+bo(0)", "ada"),
    ],
)
def test_a_mixture_of_voices_has_one_way_to_be_written(wanted: str, own: str) -> None:
    assert choose_voice(wanted, MIXING, {"alloy": "bo"}) == own
    assert choose_voice(own, MIXING, {}) == own


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("ada+nobody", "no voice 'nobody'"),
        ("ada++bo", "not a voice or a mixture"),
        ("ada(-1)", "not a voice or a mixture"),
        ("ada(0)", "not a voice or a mixture"),
        ("ada(2", "not a voice or a mixture"),
        ("", "not a voice or a mixture"),
        ("+".join(["ada"] * 9), "may have 8"),
    ],
)
def test_a_mixture_that_cannot_be_read_says_why(wanted: str, message: str) -> None:
    with pytest.raises(MotetError, match=message):
        choose_voice(wanted, MIXING, {})


def test_a_model_that_does_not_mix_knows_no_mixtures() -> None:
    with pytest.raises(MotetError, match=r"no voice 'ada\+bo'"):
        choose_voice("ada+bo", TRAITS, {})


def test_a_model_without_voices_asks_for_a_clip() -> None:
    cloning = replace(TRAITS, voices=(), default_voice="", clones=True)
    with pytest.raises(MotetError, match="POST /v1/audio/voices"):
        choose_voice(None, cloning, {})


async def test_every_request_of_a_text_carries_the_clip_to_another_process() -> None:
    clip = VoiceReference("voice_1", np.arange(8, dtype=np.float32), RATE, "Eight samples.")
    requests = await requests_for(SpeechRequest(PIECES, clip.id, reference=clip), 0.1)
    assert len(requests) == len(PIECES)
    assert all(request.reference is clip and request.voice == "voice_1" for request in requests)
    (arrived,) = pickle.loads(pickle.dumps(requests[:1]))
    assert arrived == requests[0] and hash(arrived) == hash(requests[0])
    np.testing.assert_array_equal(arrived.reference.samples, clip.samples)


def test_every_piece_of_a_script_has_its_speakers_mark() -> None:
    pieces = ("Speaker 2: One.", "Two.", "Speaker 1: Three.")
    assert speaker_marker(TRAITS, "ada")(pieces) == pieces
    pair = replace(TRAITS, most_speakers=2)
    assert speaker_marker(pair, "ada,bo")(pieces) == ("Speaker 2: One.", "Speaker 2: Two.", "Speaker 1: Three.")
    with pytest.raises(MotetError, match="Speaker 2"):
        speaker_marker(pair, "ada")(pieces)


async def test_a_text_may_be_spoken_from_any_of_its_pieces_on() -> None:
    def spoken_from(first: int) -> AsyncGenerator[AudioChunk]:
        return speak(request_of(), TRAITS, ReplicaClient(), max_request_seconds=0.1, first=first)

    chunks = [chunk async for chunk in spoken_from(2)]
    assert [(chunk.index, chunk.text, chunk.last) for chunk in chunks] == [(2, PIECES[2], False), (3, PIECES[3], True)]
    assert [chunk async for chunk in spoken_from(len(PIECES))] == []


class InGroups:
    """A text of which so many pieces are there at each look."""

    def __init__(self, *counts: int) -> None:
        self.pieces: list[Piece] = []
        self._counts = iter(counts)

    async def take(self, first: int, characters: float) -> tuple[Piece, ...]:
        self.pieces += as_written(PIECES[first : first + next(self._counts, 0)])
        return tuple(self.pieces[first:])

    def ends_at(self, number: int) -> bool:
        return False


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_a_text_that_comes_in_groups_is_the_same_sound(speed: float) -> None:
    request = request_of(speed=speed)
    whole = np.concatenate([c.samples for c in speak_here(request, ToneEngine())])
    chunks = list(speak_here(replace(request, pieces=()), ToneEngine(), InGroups(1, 2, 1)))
    np.testing.assert_array_equal(np.concatenate([c.samples for c in chunks]), whole)
    assert [chunk.index for chunk in chunks][:4] == [0, 1, 2, 3]


@pytest.mark.parametrize(("speed", "known"), [(1.0, True), (1.0, False), (4.0, True), (4.0, False)])
async def test_the_end_of_a_text_that_is_being_written_is_marked_when_it_is_known(speed: float, known: bool) -> None:
    """At the latest by an empty chunk."""
    pieces = PieceSettings(first_piece_characters=9, piece_characters=99)
    text = ArrivingText(Cutter(pieces), ArrivalSettings(max_characters=99, pause_s=60.0, idle_s=60.0))
    text.write(PIECES[1])
    text.flush()
    chunks = []
    if known:
        text.end()
    async for chunk in speak(request_of(speed=speed), TRAITS, ReplicaClient(), text=text, max_request_seconds=1.0):
        chunks.append(chunk)
        text.end()
    assert [chunk.last for chunk in chunks] == ([True] if known else [False, True])
    assert sum(chunk.seconds for chunk in chunks) == pytest.approx(len(tone(PIECES[1])) / RATE / speed, rel=0.02)


async def test_texts_that_are_spoken_together_share_every_step() -> None:
    """Also where one ends and the next one begins; each sounds as it does alone."""
    engine = ToneEngine()
    client = BatchedClient(engine)
    texts = iter([PIECES[:1], PIECES, PIECES[:3], PIECES[1:]])
    sounds: dict[tuple[str, ...], list[AudioChunk]] = {}

    async def one_after_another() -> None:
        for pieces in texts:
            sounds[pieces] = [chunk async for chunk in speak(request_of(pieces, 3.0), TRAITS, client)]

    await asyncio.gather(*(one_after_another() for _ in range(3)))
    assert engine.batches == [3, 3, 3, 2]
    for pieces, chunks in sounds.items():
        alone = np.concatenate([c.samples for c in speak_here(request_of(pieces, 3.0), ToneEngine())])
        np.testing.assert_array_equal(np.concatenate([c.samples for c in chunks]), alone)


async def test_a_bad_text_fails_alone_in_a_shared_step(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ToneEngine()
    step = engine.step

    def refuses(utterances: Sequence[ToneUtterance]) -> list[AudioChunk | Exception]:
        if any(utterance.request.pieces == ("Bad.",) for utterance in utterances):
            raise RuntimeError("the engine broke")
        return step(utterances)

    monkeypatch.setattr(engine, "step", refuses)
    client = BatchedClient(engine)

    async def sound_of(*pieces: str) -> list[AudioChunk]:
        return [chunk async for chunk in speak(request_of(pieces), TRAITS, client)]

    good, bad = await asyncio.gather(sound_of("Good."), sound_of("Bad."), return_exceptions=True)
    assert isinstance(good, list) and [chunk.text for chunk in good] == ["Good."]
    assert isinstance(bad, RuntimeError)


def test_a_script_goes_on_with_its_speaker_in_the_next_group() -> None:
    speakers = speaker_marker(replace(TRAITS, most_speakers=2), "ada,bo")
    assert speakers(["Speaker 2: One."]) == ("Speaker 2: One.",)
    assert speakers(["Two.", "Speaker 1: Three."]) == ("Speaker 2: Two.", "Speaker 1: Three.")
    with pytest.raises(MotetError, match="Speaker 3"):
        speakers(["Speaker 3: Four."])
