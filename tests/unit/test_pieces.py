"""Pieces with a speed, a voice or a pause of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.engines.protocols import AudioChunk, SpeechRequest, SpokenWord
from deployments.errors import MotetError
from deployments.tasks.in_process_speech import speak_here
from deployments.tasks.speech import speak
from deployments.text.piece import Piece, as_written
from deployments.text.sources import ForOneVoice, WholeText
from serve_app.gateway.speech.piece_cache import PieceCache
from tests.unit.fakes import RATE, TRAITS, ToneEngine, tone
from tests.unit.test_speech_task import ReplicaClient, request_of

NOTHING = request_of(())


def heard(*pieces: Piece, speed: float = 1.0) -> list[AudioChunk]:
    return list(speak_here(replace(NOTHING, speed=speed), ToneEngine(), WholeText(pieces)))


def sound(chunks: Sequence[AudioChunk]) -> Any:
    return np.concatenate([chunk.samples for chunk in chunks])


def test_a_model_reads_what_is_spoken_and_not_what_is_written() -> None:
    np.testing.assert_array_equal(sound(heard(Piece("W3C", "The consortium."))), tone("The consortium."))


@pytest.mark.parametrize("speed", [1.0, 0.5, 3.0, 4.0])
def test_a_pause_is_exact_at_every_speed(speed: float) -> None:
    plain = heard(*as_written(("One.", "Two.")), speed=speed)
    paused = heard(Piece("One.", "One.", 0.25), Piece("Two.", "Two.", 1.5), speed=speed)
    first, second = (chunk.samples for chunk in plain)
    expected: list[Any] = [first, np.zeros(round(0.25 * RATE)), second, np.zeros(round(1.5 * RATE))]
    np.testing.assert_array_equal(sound(paused), np.concatenate(expected))
    assert [chunk.index for chunk in paused] == [0, 1]


def test_a_piece_without_words_is_only_its_pause() -> None:
    chunks = heard(Piece("", "", 0.1), Piece("", "...", 0.2), *as_written(("One.",)))
    assert [(chunk.index, chunk.last) for chunk in chunks] == [(0, False), (1, False), (2, True)]
    assert [len(chunk.samples) for chunk in chunks] == [RATE // 10, RATE // 5, len(tone("One."))]


def test_a_text_of_pauses_has_no_words() -> None:
    with pytest.raises(MotetError, match="no words to speak"):
        heard(Piece("", "", 1.0))


async def requests_for(*pieces: Piece, speed: float = 1.0) -> ReplicaClient:
    client = ReplicaClient()
    async for _ in speak(replace(NOTHING, speed=speed), TRAITS, client, text=WholeText(pieces)):
        pass
    return client


async def test_neighbours_with_one_voice_and_speed_share_a_request() -> None:
    fast = Piece("Two.", "Two.", speed=2.0)
    client = await requests_for(
        *as_written(("One.",)), fast, fast, replace(fast, voice="bo"), *as_written(("End.",)), speed=1.5
    )
    said = [(request.pieces, request.speed, request.voice, request.first_index) for request in client.requests]
    assert said == [
        (("One.",), 1.5, "ada", 0),
        (("Two.", "Two."), 2.0, "ada", 1),
        (("Two.",), 2.0, "bo", 3),
        (("End.",), 1.5, "ada", 4),
    ]
    assert client.tempos == [1.0, 1.5, 1.5, 1.0]


async def test_a_speed_stays_within_what_is_possible() -> None:
    client = await requests_for(Piece("One.", "One.", speed=4.0), Piece("Two.", "Two.", speed=0.25), speed=3.0)
    assert [request.speed * tempo for request, tempo in zip(client.requests, client.tempos, strict=True)] == [4.0, 0.75]


@given(
    kinds=st.lists(st.sampled_from([(1.0, None), (2.0, None), (1.0, "bo")]), min_size=1, max_size=12),
    pauses=st.lists(st.sampled_from([0.0, 0.05]), min_size=12, max_size=12),
    seconds=st.sampled_from([0.1, 1.0, 100.0]),
)
@settings(max_examples=40, deadline=None)
def test_the_sound_does_not_depend_on_how_pieces_are_grouped(
    kinds: list[tuple[float, str | None]], pauses: list[float], seconds: float
) -> None:
    pieces = [
        Piece(f"Number {n}.", f"Number {n}.", pause, speed, voice)
        for n, ((speed, voice), pause) in enumerate(zip(kinds, pauses, strict=False))
    ]
    store = PieceCache(10_000_000).of_model("tone", "its weights")

    async def chunks() -> list[AudioChunk]:
        made = speak(NOTHING, TRAITS, ReplicaClient(), text=WholeText(pieces), max_request_seconds=seconds, store=store)
        return [chunk async for chunk in made]

    first, kept = asyncio.run(chunks()), asyncio.run(chunks())
    np.testing.assert_array_equal(sound(first), sound(kept))
    alone = np.concatenate([sound(heard(piece)) for piece in pieces])
    np.testing.assert_allclose(sound(first), alone, rtol=0, atol=2**-12)
    assert [chunk.last for chunk in first] == [False] * (len(pieces) - 1) + [True]


async def test_one_voice_for_all_reads_every_piece() -> None:
    text = ForOneVoice(
        WholeText([Piece("Speaker 1: Yes.", "Speaker 1: Yes.", voice="bo")]), script=True, phonemes=False
    )
    assert await text.take(0, 1) == (Piece("Yes.", "Yes."),)


def test_a_request_without_a_source_is_spoken_as_it_is_written() -> None:
    request = SpeechRequest(("One.",), "ada")
    np.testing.assert_array_equal(sound(list(speak_here(request, ToneEngine()))), tone("One."))


class Padded(ToneEngine):
    """Speaks each piece in parts, with silence of 0.3 s before and after it, and knows one word, at 0.35 s."""

    def step(self, utterances: Sequence[Any]) -> list[AudioChunk | Exception]:
        silence = np.zeros(round(0.3 * RATE), np.float32)
        return [
            replace(
                chunk,
                samples=np.concatenate([silence, chunk.samples, silence]),
                words=(SpokenWord(chunk.text, 0.35, 0.4),),
            )
            for chunk in super().step(utterances)
            if isinstance(chunk, AudioChunk)
        ]


@pytest.mark.parametrize("speed", [1.0, 2.0])
def test_the_pieces_of_a_sentence_are_joined_and_their_words_move_along(speed: float) -> None:
    apart = [Piece("One", "One"), Piece("two.", "two."), Piece("Three.", "Three.")]
    whole = list(speak_here(replace(NOTHING, speed=speed), Padded(), WholeText(apart)))
    joined = [replace(apart[0], goes_on=True), *apart[1:]]
    chunks = list(speak_here(replace(NOTHING, speed=speed), Padded(), WholeText(joined)))
    cut_s = [before.seconds - after.seconds for before, after in zip(whole, chunks, strict=True)]
    assert cut_s == pytest.approx([0.26, 0.26, 0.0], abs=0.005)
    moved = [b.words[0].start - a.words[0].start for b, a in zip(whole, chunks, strict=True)]
    assert moved == pytest.approx([0.0, 0.26, 0.0], abs=0.005)
