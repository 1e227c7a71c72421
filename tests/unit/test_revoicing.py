"""The revoicing driver without a cluster: the voice at its places, the background at its level, the recording's length."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.engines.protocols import AudioChunk, Samples, SeparationTraits, SpeechTraits, Voice
from deployments.errors import MotetError, fail
from deployments.tasks.engine_calls import DoneCall, in_order, next_here, run_here
from deployments.tasks.phrase_fitting import PhraseFitter
from deployments.tasks.phrases import Phrase
from deployments.tasks.revoicing import (
    RevoicedPart,
    RevoicedPhrase,
    RevoicingSummary,
    VoiceTrack,
    ensure_leaves_background,
    mixed,
    revoice,
    sound_of_phrase,
)
from deployments.tasks.separation import Merged
from deployments.tasks.voice_language import ensure_speaks

RATE = 8000
TWICE = 2 * RATE


def tone(seconds: float, level: float = 0.5) -> Samples:
    times = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * 440 * times)).astype(np.float32)


async def stems(seconds: float, level: float, channels: int, part_s: float = 0.7) -> AsyncGenerator[Merged]:
    """A recording of noise in parts, at twice the voice's rate; `speech` is what must not be heard."""
    noise = np.random.default_rng(0).standard_normal((channels, round(seconds * TWICE))).astype(np.float32) * level
    for start in range(0, noise.shape[1], round(part_s * TWICE)):
        part = noise[:, start : start + round(part_s * TWICE)]
        yield Merged({"speech": np.full_like(part, 9.0), "background": part}, TWICE)


def revoiced(
    phrases: Sequence[tuple[Phrase, Samples]], recording_s: float, merged: AsyncGenerator[Merged] | None = None
) -> list[RevoicedPart]:
    """The parts, with phrases that were spoken already."""

    async def sound_of(call: DoneCall[Samples]) -> Samples:
        return await call

    waiting = iter(phrases)
    calls = in_order(lambda: next_here(waiting), lambda each: DoneCall(each[1]), 2)

    async def known() -> AsyncGenerator[tuple[Phrase, DoneCall[Samples]]]:
        async for (phrase, _), call in calls:
            yield phrase, call

    track = VoiceTrack(PhraseFitter(1.5, 0.1), RATE, lambda: recording_s)
    return list(run_here(revoice(known(), sound_of, track, merged)))


def whole(parts: Sequence[RevoicedPart]) -> Samples:
    return np.concatenate([part.samples for part in parts], axis=1)


def found_in(parts: Sequence[RevoicedPart]) -> list[RevoicedPhrase]:
    return [phrase for part in parts for phrase in part.phrases]


def test_phrases_are_at_their_places_in_a_recording_of_the_same_length() -> None:
    phrases = [
        (Phrase(0, "a", 1.0, 2.0, 3.0), tone(1.0)),
        (Phrase(1, "b", 3.0, 4.0, 20.0), tone(0.5)),
    ]
    parts = revoiced(phrases, 20.0)
    sound = whole(parts)
    assert sound.shape == (1, 20 * RATE)
    np.testing.assert_array_equal(sound[0, RATE : 2 * RATE], tone(1.0))
    np.testing.assert_array_equal(sound[0, 3 * RATE : 3 * RATE + RATE // 2], tone(0.5))
    assert not sound[0, :RATE].any() and not sound[0, 2 * RATE : 3 * RATE].any()
    assert max(part.seconds for part in parts) <= 5.0
    assert [phrase.phrase.text for phrase in found_in(parts)] == ["a", "b"]


def test_a_phrase_begins_in_the_part_that_names_it() -> None:
    parts = revoiced([(Phrase(0, "a", 7.0, 8.0, 9.0), tone(1.0))], 9.0)
    before = 0.0
    for part in parts:
        for phrase in part.phrases:
            assert phrase.fit.start_s == pytest.approx(before)
        before += part.seconds
    assert len(found_in(parts)) == 1


def test_a_long_phrase_is_spoken_faster_and_keeps_the_length() -> None:
    parts = revoiced([(Phrase(0, "a", 0.0, 1.0, 2.1), tone(2.5)), (Phrase(1, "b", 2.1, 3.0, 4.0), tone(1.0))], 4.0)
    first, second = found_in(parts)
    assert first.fit.speed == pytest.approx(1.25)
    assert second.fit.drift_s == 0.0
    assert whole(parts).shape == (1, 4 * RATE)


def test_what_does_not_fit_makes_the_sound_longer() -> None:
    parts = revoiced([(Phrase(0, "a", 0.0, 1.0, 1.0), tone(3.0))], 1.0)
    assert whole(parts).shape == (1, 2 * RATE)
    done = RevoicingSummary()
    for part in parts:
        done.note(part)
    assert done == RevoicingSummary(2.0, 1, 0, 1.5, 0.0)


def test_a_phrase_that_the_voice_cannot_say_is_silent() -> None:
    parts = revoiced([(Phrase(0, "a", 1.0, 2.0, 3.0), tone(0.0))], 3.0)
    assert [phrase.spoken for phrase in found_in(parts)] == [False]
    assert not whole(parts).any()


@pytest.mark.parametrize("channels", [1, 2])
def test_the_background_stays_at_its_level_under_the_voice(channels: int) -> None:
    phrases = [(Phrase(0, "a", 1.0, 2.0, 3.0), tone(1.0))]
    parts = revoiced(phrases, 6.0, stems(6.0, 0.01, channels))
    sound = whole(parts)
    assert (parts[0].sample_rate, sound.shape) == (TWICE, (channels, 6 * TWICE))
    for quiet in (sound[:, :TWICE], sound[:, 2 * TWICE :]):
        assert np.std(quiet) == pytest.approx(0.01, rel=0.05)
    spoken = sound[:, round(1.1 * TWICE) : round(1.9 * TWICE)]
    assert np.std(spoken) == pytest.approx(np.hypot(np.std(tone(1.0)), 0.01), rel=0.02)


def test_the_sound_is_longer_than_its_background_when_the_voice_is() -> None:
    sound = whole(revoiced([(Phrase(0, "a", 0.0, 1.0, 1.0), tone(3.0))], 1.0, stems(1.0, 0.01, 1)))
    assert sound.shape == (1, 2 * TWICE)


def test_the_background_goes_on_after_the_voice() -> None:
    """The separation counts samples, the transcription seconds: the longer one decides."""
    sound = whole(revoiced([(Phrase(0, "a", 0.0, 1.0, 1.0), tone(0.5))], 1.0, stems(12.5, 0.01, 2)))
    assert sound.shape == (2, round(12.5 * TWICE))
    assert np.std(sound[:, TWICE:]) == pytest.approx(0.01, rel=0.05)


@given(st.integers(1, 50), st.integers(0, 50), st.integers(1, 2))
def test_a_mix_is_the_sum(count: int, behind_count: int, channels: int) -> None:
    source = np.random.default_rng(count)
    voice = source.standard_normal((1, count)).astype(np.float32)
    behind = source.standard_normal((channels, min(count, behind_count))).astype(np.float32)
    kept, total = voice.copy(), mixed(behind, voice)
    padded = np.pad(behind, ((0, 0), (0, count - behind.shape[1])))
    np.testing.assert_array_equal(total, padded + voice)
    np.testing.assert_array_equal(voice, kept)


async def said(*sounds: Samples, error: Exception | None = None) -> AsyncGenerator[AudioChunk]:
    for at, samples in enumerate(sounds):
        yield AudioChunk(samples, RATE, 0, "", last=at + 1 == len(sounds))
    if error:
        raise error


async def test_the_silence_around_a_phrase_is_cut_off() -> None:
    silence = np.zeros(RATE, np.float32)
    sound = await sound_of_phrase(said(silence, tone(0.5), silence), RATE)
    assert 0.5 <= len(sound) / RATE <= 0.5 + 4 * 0.02
    assert np.std(sound[400:-400]) > 0.3


async def test_a_phrase_without_sound_is_empty() -> None:
    for chunks in (said(), said(np.zeros(RATE, np.float32)), said(error=fail("invalid", "No.", code="empty_input"))):
        assert len(await sound_of_phrase(chunks, RATE)) == 0


async def test_any_other_error_of_a_phrase_is_raised() -> None:
    with pytest.raises(MotetError, match="Gone"):
        await sound_of_phrase(said(tone(0.1), error=fail("unavailable", "Gone.")), RATE)


TRAITS = SpeechTraits(
    RATE,
    (Voice("ada", "en-GB"), Voice("uwe", "de"), Voice("any", "und"), Voice("ai", "ja", other_languages=("en",))),
    "ada",
    1.0,
    1.0,
)


@pytest.mark.parametrize(
    ("voice", "language"),
    [
        ("ada", "en"),
        ("uwe", "de"),
        ("any", "de"),
        ("clip", "de"),
        ("ada", None),
        ("ai", "en"),
        ("ai(2)+ada(1)", "en"),
        ("ada", "xx"),
    ],
)
def test_a_voice_speaks_its_language(voice: str, language: str | None) -> None:
    ensure_speaks("m", TRAITS, voice, language)


def test_another_language_is_refused_with_what_to_do() -> None:
    with pytest.raises(MotetError) as refused:
        ensure_speaks("m", TRAITS, "ada", "de")
    failure = refused.value.failure
    assert (failure.kind, failure.param, failure.code) == ("unsupported", "voice", "language_not_supported")
    assert "german (de)" in failure.cause
    assert "uwe" in failure.remedy and "translate=true" in failure.remedy


def test_a_model_that_tells_speech_from_nothing_is_refused() -> None:
    ensure_leaves_background("m", SeparationTraits((RATE,), ("speech", "background"), False, False))
    for names in (("speech",), ("vocals", "drums")):
        with pytest.raises(MotetError):
            ensure_leaves_background("m", SeparationTraits((RATE,), names, False, False))
