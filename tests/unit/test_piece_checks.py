"""Pieces are measured, and made again if they have a fault, without losing, doubling or reordering sound."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.audio.speech_measures import clipped_share, measured, repetition
from deployments.engines.protocols import AudioChunk, Samples, SpeechRequest
from deployments.tasks.in_process_speech import BatchedClient, InProcessClient, speak_here
from deployments.tasks.piece_checks import PieceChecks
from deployments.tasks.piece_quality import PieceQuality, QualitySettings, QualitySummary, VoiceNorm, faults_of, repeats
from deployments.tasks.speech import SpeechCall, speak
from deployments.text.spoken_length import spoken_letters
from tests.unit.speech_sounds import RATE, TRAITS, NoisyEngine, said

TEXTS = (
    "The ferry leaves the harbour at noon.",
    "Nobody had told us about the second bridge.",
    "Bring two blankets and a warm coat.",
    "It rained all day and most of the night.",
    "Perhaps we should have asked the driver.",
)
BAD = TEXTS[3]
SILENCE = np.zeros(2 * RATE, np.float32)


def spoiled(kind: str, text: str = BAD) -> Samples:
    sound = said(text)
    if kind == "clipped":
        return np.clip(sound * 8, -1, 1)
    if kind == "silent":
        return sound * 0
    if kind == "short":
        return sound[: int(0.5 * len(sound))] * _faded(int(0.5 * len(sound)))
    if kind == "cut":
        return sound[: int(0.5 * len(sound))]
    if kind == "long":
        return np.concatenate([sound, said("and some words that nobody wrote, which are of no use to us")])
    if kind == "pause":
        return np.concatenate([sound[: len(sound) // 2], SILENCE, sound[len(sound) // 2 :]])
    if kind == "repeated":
        return np.concatenate([sound[: len(sound) // 2], sound[len(sound) // 4 :]])
    assert kind == "level"
    return sound * 4


def _faded(count: int) -> Samples:
    fade: Samples = np.minimum(1.0, np.arange(count, 0, -1) / (0.05 * RATE)).astype(np.float32)
    return fade


def spoken(engine: NoisyEngine, checks: PieceChecks, texts: tuple[str, ...] = TEXTS) -> list[AudioChunk]:
    return list(speak_here(SpeechRequest(texts, "ada"), engine, checks=checks))


def sound_of(chunks: list[AudioChunk]) -> Samples:
    return np.concatenate([chunk.samples for chunk in chunks])


@pytest.mark.parametrize("kind", ["clipped", "silent", "short", "cut", "long", "pause", "repeated", "level"])
@pytest.mark.parametrize("chunk_s", [100.0, 0.5])
def test_each_kind_of_fault_is_found_and_the_piece_made_again(kind: str, chunk_s: float) -> None:
    engine = NoisyEngine(chunk_s, {BAD: spoiled(kind)})
    checks = PieceChecks(QualitySettings(), TRAITS)
    chunks = spoken(engine, checks)
    found = {quality.index: quality for quality in checks.found}
    assert kind in found[3].first_faults or (kind == "cut" and found[3].first_faults)
    assert [found[n].first_faults for n in (0, 1, 2, 4)] == [()] * 4
    assert (found[3].faults, found[3].attempts) == ((), 2)
    assert [request.pieces for request in engine.requests] == [TEXTS, (BAD,), TEXTS[4:]]
    assert [request.first_index for request in engine.requests] == [0, 3, 4]
    again = engine.requests[1].seed
    assert again not in (0, engine.requests[2].seed)
    expected = [said(text, again if text == BAD else 0) for text in TEXTS]
    np.testing.assert_array_equal(sound_of(chunks), np.concatenate(expected))
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [chunk.index for chunk in chunks if chunk.piece_over] == list(range(len(TEXTS)))
    assert engine.opened == 0


def test_a_repetition_is_not_looked_for_while_the_listener_waits() -> None:
    """Looking for it takes most of the time, and the first sound would be later."""
    for buffered_s, faults in ((0.0, ()), (60.0, ("repeated",))):
        engine = NoisyEngine(100.0, {BAD: spoiled("repeated")}, True)
        checks = PieceChecks(QualitySettings(ignored=("long",)), TRAITS, buffered_seconds=Listener(buffered_s))
        spoken(engine, checks)
        assert {quality.index: quality for quality in checks.found}[3].faults == faults


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=6),
    chunk_s=st.floats(0.05, 5.0),
    bad=st.sets(st.integers(0, 4)),
    always=st.booleans(),
    attempts=st.integers(1, 3),
)
def test_every_piece_sounds_once_and_in_order(
    texts: list[str], chunk_s: float, bad: set[int], always: bool, attempts: int
) -> None:
    engine = NoisyEngine(chunk_s, {TEXTS[n]: spoiled("silent", TEXTS[n]) for n in bad}, always)
    checks = PieceChecks(QualitySettings(attempts=attempts), TRAITS)
    request = SpeechRequest(tuple(texts), "ada")
    chunks = list(speak_here(request, engine, checks=checks))
    assert [chunk.index for chunk in chunks if chunk.piece_over] == list(range(len(texts)))
    seconds = [sum(chunk.seconds for chunk in chunks if chunk.index == n) for n in range(len(texts))]
    np.testing.assert_allclose(seconds, [len(said(text)) / RATE for text in texts])
    mended = not always and attempts > 1
    wrong = [quality.index for quality in checks.found if quality.faults]
    assert wrong == ([] if mended else [n for n, text in enumerate(texts) if TEXTS.index(text) in bad])
    assert engine.opened == 0


@dataclass
class Listener:
    """A listener whose buffer is full until it is emptied, and a clock that stands still."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_the_first_sound_leaves_before_its_piece_is_over_and_is_not_made_again() -> None:
    engine = NoisyEngine(0.5, {TEXTS[0]: spoiled("pause", TEXTS[0])})
    checks = PieceChecks(QualitySettings(), TRAITS, buffered_seconds=Listener(0.0), clock=lambda: 0.0)
    chunks = speak_here(SpeechRequest(TEXTS, "ada"), engine, checks=checks)
    assert next(chunks).samples.shape == (int(0.5 * RATE),)
    assert checks.found == []
    heard = list(chunks)
    assert checks.found[0] == PieceQuality(0, ("pause",), ("pause",))
    assert len(engine.requests) == 1
    assert heard[-1].last


def test_a_piece_that_came_whole_is_made_again_only_if_its_making_took_no_longer_than_the_patience() -> None:
    for took_s, requests in ((0.2, 3), (0.4, 1)):
        times = count(0.0, took_s)
        engine = NoisyEngine(100.0, {TEXTS[0]: spoiled("silent", TEXTS[0])})
        checks = PieceChecks(QualitySettings(patience_ms=300), TRAITS, Listener(0.0), clock=times.__next__)
        spoken(engine, checks)
        assert len(engine.requests) == requests


def test_a_piece_is_held_only_while_the_listener_has_sound() -> None:
    engine = NoisyEngine(0.5, {BAD: spoiled("pause")})
    listener = Listener(0.0)
    checks = PieceChecks(QualitySettings(), TRAITS, buffered_seconds=listener, clock=lambda: 0.0)
    chunks = speak_here(SpeechRequest(TEXTS, "ada"), engine, checks=checks)
    until_bad = [next(chunks)]
    while not (until_bad[-1].index == 2 and until_bad[-1].piece_over):
        until_bad.append(next(chunks))
    listener.seconds = 10.0
    rest = list(chunks)
    assert (checks.found[3].faults, checks.found[3].attempts) == ((), 2)
    np.testing.assert_array_equal(
        sound_of([chunk for chunk in rest if chunk.index == 3]), said(BAD, engine.requests[1].seed)
    )


def test_an_attempt_that_fails_or_is_no_better_leaves_the_first_one() -> None:
    class Failing(NoisyEngine):
        def open(self, request: SpeechRequest) -> Any:
            if request.seed:
                raise RuntimeError("no place")
            return super().open(request)

    for engine in (Failing(100.0, {BAD: spoiled("level")}), NoisyEngine(100.0, {BAD: spoiled("level")}, always=True)):
        checks = PieceChecks(QualitySettings(), TRAITS)
        chunks = spoken(engine, checks)
        np.testing.assert_array_equal(sound_of([c for c in chunks if c.index == 3]), spoiled("level"))
        assert (checks.found[3].faults, checks.found[3].attempts) == (("level",), 2)
        assert chunks[-1].last


def test_a_voice_that_the_limits_do_not_fit_is_not_made_twice_for_ever() -> None:
    texts = TEXTS * 2
    engine = NoisyEngine(100.0, {text: spoiled("silent", text) for text in TEXTS}, always=True)
    checks = PieceChecks(QualitySettings(), TRAITS)
    spoken(engine, checks, texts)
    assert [quality.attempts for quality in checks.found] == [2, 2, 2] + [1] * 7


def test_ignored_faults_are_not_looked_for_and_without_checks_nothing_is_measured() -> None:
    engine = NoisyEngine(100.0, {BAD: spoiled("level")})
    checks = PieceChecks(QualitySettings(ignored=("level",)), TRAITS)
    spoken(engine, checks)
    assert len(engine.requests) == 1
    off = PieceChecks(QualitySettings(enabled=False), TRAITS)
    spoken(NoisyEngine(), off)
    assert off.found == []


def test_many_drivers_share_steps_while_one_makes_a_piece_again() -> None:
    class Many(NoisyEngine):
        def open(self, request: SpeechRequest) -> Any:
            self.opened = 0
            return super().open(request)

    async def all_at_once() -> list[list[AudioChunk]]:
        engine = Many(0.3, {BAD: spoiled("silent")})
        client: BatchedClient[Any] = BatchedClient(engine)

        async def one() -> list[AudioChunk]:
            checks = PieceChecks(QualitySettings(), TRAITS)
            chunks = speak(SpeechRequest(TEXTS, "ada"), TRAITS, checks.around(client))
            return [chunk async for chunk in chunks]

        return await asyncio.wait_for(asyncio.gather(*(one() for _ in range(3))), 20)

    for chunks in asyncio.run(all_at_once()):
        assert [chunk.index for chunk in chunks if chunk.piece_over] == list(range(len(TEXTS)))


class Ear:
    """Hears other words where it is told to, the first time."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.asked: list[tuple[int, str]] = []

    async def heard(self, samples: Samples, sample_rate: int, language: str) -> str | None:
        self.asked.append((sample_rate, language))
        return self.texts.pop(0)


def test_a_verified_piece_with_other_words_is_made_again() -> None:
    ear = Ear([TEXTS[0], "Something quite different from that.", TEXTS[1], TEXTS[2].replace("two", "to")])
    engine = NoisyEngine()
    checks = PieceChecks(QualitySettings(), TRAITS, hearing=ear)
    spoken(engine, checks, TEXTS[:3])
    assert [quality.first_faults for quality in checks.found] == [(), ("words",), ()]
    assert [quality.heard for quality in checks.found] == [TEXTS[0], TEXTS[1], "Bring to blankets and a warm coat."]
    assert ear.asked == [(RATE, "en-GB")] * 4
    summary = QualitySummary.of(checks.found)
    assert (summary.pieces, summary.made_again, summary.faulty, summary.wrong_words) == (3, 1, 0, 1)


def test_a_word_that_is_only_spelled_otherwise_is_no_fault() -> None:
    checks = PieceChecks(QualitySettings(), TRAITS, hearing=Ear(["Posh, Sedaniel."]))
    spoken(NoisyEngine(), checks, ("Push! said Daniel.",))
    assert checks.found[0].wrong_words == 3
    assert checks.found[0].first_faults == ()


def test_a_listener_without_sound_does_not_wait_for_a_hearing() -> None:
    ear = Ear([])
    spoken(NoisyEngine(), PieceChecks(QualitySettings(), TRAITS, Listener(0.0), ear, clock=lambda: 0.0))
    assert ear.asked == []


def test_a_retry_goes_elsewhere_if_the_client_can() -> None:
    class Client(InProcessClient[Any]):
        elsewhere = 0

        def open_elsewhere(self, request: SpeechRequest, tempo: float) -> SpeechCall:
            self.elsewhere += 1
            return self.open(request, tempo)

    async def run() -> int:
        client = Client(NoisyEngine(100.0, {BAD: spoiled("silent")}))
        async for _ in speak(
            SpeechRequest(TEXTS, "ada"), TRAITS, PieceChecks(QualitySettings(), TRAITS).around(client)
        ):
            pass
        return client.elsewhere

    assert asyncio.run(run()) == 1


def test_measures_have_their_units() -> None:
    sound = np.concatenate([said("one two three"), np.zeros(RATE, np.float32), said("four five six")])
    found = measured(sound, RATE)
    assert found.seconds == pytest.approx(len(sound) / RATE)
    assert found.longest_pause_s == pytest.approx(1.0, abs=0.15)
    assert found.level_db == pytest.approx(-20.0, abs=2.0)
    assert measured(sound[: len(said("one two three")) - RATE // 10], RATE).end_db > -6
    assert clipped_share(np.clip(8 * sound, -1, 1)) > 0.01 > clipped_share(sound)


@given(seed=st.integers(0, 100), lag=st.integers(RATE, 3 * RATE))
@settings(max_examples=20, deadline=None)
def test_a_copied_part_is_a_repetition_at_any_lag(seed: int, lag: int) -> None:
    sound = said("abcdefghijklmnopqrstuvwxyz" * 3, seed)[: 4 * RATE]
    assert repetition(np.concatenate([sound[:lag], sound]), RATE) > 0.9
    assert repetition(said("The ferry leaves the harbour at noon, nobody knows why.", seed), RATE) < 0.8


@pytest.mark.parametrize("samples", [0, 1, 100, 5000])
@pytest.mark.parametrize("make", [np.zeros, np.ones])
def test_anything_can_be_measured(samples: int, make: Callable[..., Samples]) -> None:
    found = measured(make(samples, np.float32), RATE)
    faults_of(found, "Some text.", 1.0, "stop", VoiceNorm())
    assert np.isfinite(found.repetition)


def test_letters_count_what_is_said() -> None:
    assert spoken_letters("1984") > 3 * spoken_letters("word")
    assert spoken_letters("Hello.") == spoken_letters("Hello") == 5
    assert spoken_letters("[tomato](/təˈmeɪtoʊ/)") == spoken_letters("tomato")
    assert spoken_letters("音声合成") > spoken_letters("word")
    assert spoken_letters("FBI") > spoken_letters("fbi")
    assert spoken_letters("") == 0


def test_texts_that_repeat_are_known() -> None:
    assert repeats("No, no, no, no, no, no!")
    assert repeats("She sells sea shells, and the shells she sells are sea shells.")
    assert not any(map(repeats, TEXTS))
