"""Sections of speech equal those of Silero's own function, whatever the blocks are."""

from __future__ import annotations

import numpy as np
import pytest
from faster_whisper.vad import VadOptions, get_speech_timestamps
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.audio import voice_activity
from deployments.audio.voice_activity import (
    FRAME,
    NETWORK_RATE,
    SpeechPart,
    SpeechProbabilities,
    SpeechSections,
    VoiceActivity,
)
from deployments.engines.protocols import Samples
from deployments.settings import VoiceActivitySettings
from serve_app.bench.hearing_noise import files_without_speech
from tests.unit.recognition_engine_properties import SENTENCES, spoken

RATE = NETWORK_RATE


def sections_of(parts: list[SpeechPart]) -> list[tuple[int, int]]:
    """Joins the parts of each section, and checks that they follow each other."""
    sections: list[tuple[int, int]] = []
    open_from: int | None = None
    last = 0
    for part in parts:
        assert part.start <= part.speech_start <= part.speech_end <= part.end
        assert part.start >= last if open_from is None else part.start == last
        open_from = part.start if open_from is None else open_from
        last = part.end
        if part.ends:
            sections.append((open_from, last))
            open_from = None
    assert open_from is None
    return sections


def parts_of(samples: Samples, wanted: VoiceActivitySettings, blocks: list[int], rate: int = RATE) -> list[SpeechPart]:
    activity = VoiceActivity(rate, wanted)
    parts: list[SpeechPart] = []
    at = number = 0
    while at < len(samples):
        size = blocks[number % len(blocks)]
        parts += activity.push(samples[at : at + size])
        assert all(part.start < activity.settled or part.start == part.end for part in parts)
        at, number = at + size, number + 1
    return parts + activity.finish()


def silero(samples: Samples, wanted: VoiceActivitySettings) -> list[tuple[int, int]]:
    options = VadOptions(
        threshold=wanted.threshold,
        min_speech_duration_ms=int(wanted.min_speech_ms),
        min_silence_duration_ms=int(wanted.min_silence_ms),
        speech_pad_ms=int(wanted.pad_ms),
    )
    return [(found["start"], found["end"]) for found in get_speech_timestamps(samples, options)]


@pytest.fixture(scope="module")
def speech() -> Samples:
    """Sentences with pauses of 0.1 to 2 s and faint noise."""
    random = np.random.default_rng(0)
    parts = []
    for pause_s, sentence in zip((0.3, 0.1, 2.0, 0.5, 0.25, 1.0), [*SENTENCES, *SENTENCES], strict=False):
        parts += [np.zeros(int(pause_s * RATE), np.float32), spoken(sentence, RATE)]
    samples: Samples = np.concatenate(parts)
    samples += random.standard_normal(len(samples)).astype(np.float32) * 1e-3
    return samples


WANTED = st.builds(
    VoiceActivitySettings,
    threshold=st.sampled_from([0.2, 0.5, 0.8]),
    min_speech_ms=st.sampled_from([0.0, 100.0, 250.0, 1000.0]),
    min_silence_ms=st.sampled_from([0.0, 100.0, 160.0, 300.0, 2000.0]),
    pad_ms=st.sampled_from([0.0, 30.0, 200.0, 400.0]),
)


@given(wanted=WANTED, blocks=st.lists(st.integers(1, 40_000), min_size=1, max_size=5), cut=st.integers(0, 100_000))
@settings(max_examples=25, deadline=None)
def test_streamed_equals_silero(speech: Samples, wanted: VoiceActivitySettings, blocks: list[int], cut: int) -> None:
    blocks = [max(block, 300) for block in blocks]
    samples = speech[: len(speech) - cut]
    assert sections_of(parts_of(samples, wanted, blocks)) == silero(samples, wanted)


@given(
    levels=st.lists(st.sampled_from([0.0, 0.1, 0.4, 0.5, 0.9]), max_size=200),
    wanted=WANTED,
    block=st.integers(1, 50),
    beyond=st.integers(1, FRAME),
)
@settings(max_examples=300, deadline=None)
def test_the_rule_is_silero_s_for_any_probabilities(
    levels: list[float], wanted: VoiceActivitySettings, block: int, beyond: int
) -> None:
    probabilities = np.array([*levels, 0.9], np.float32)
    length = len(probabilities) * FRAME - beyond
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("faster_whisper.vad.get_vad_model", lambda: lambda _: probabilities)
        expected = silero(np.zeros(length, np.float32), wanted)
    sections = SpeechSections(wanted)
    parts = [
        part
        for at in range(0, len(levels), block)
        for part in sections.push(probabilities[at : min(at + block, len(levels))])
    ]
    assert sections_of(parts + sections.finish(probabilities[-1:], length)) == expected


def test_long_silence_does_not_reach_the_network_and_moves_a_section_by_a_frame_at_most(
    speech: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = np.concatenate([speech, np.zeros(60 * RATE, np.float32), speech])
    expected = silero(samples, VoiceActivitySettings())
    asked = []
    network = voice_activity._network()

    class Counting:
        def run(self, names: None, inputs: dict[str, Samples]) -> list[Samples]:
            asked.append(len(inputs["input"]))
            found: list[Samples] = network.run(names, inputs)
            return found

    monkeypatch.setattr(voice_activity, "_network", Counting)
    sections = sections_of(parts_of(samples, VoiceActivitySettings(), [16_000]))
    assert len(sections) == len(expected)
    np.testing.assert_allclose(sections, expected, atol=FRAME)
    assert sum(asked) * FRAME < len(samples) - 50 * RATE


def test_a_section_is_returned_while_it_is_spoken(speech: Samples) -> None:
    activity = VoiceActivity(RATE, VoiceActivitySettings())
    parts = activity.push(speech[: int(1.5 * RATE)])
    assert parts and not parts[-1].ends
    assert parts[-1].end > 1.2 * RATE


def test_any_sample_rate(speech: Samples) -> None:
    halved = np.ascontiguousarray(speech[::2])
    wanted = VoiceActivitySettings()
    here, there = (sections_of(parts_of(*each)) for each in ((halved, wanted, [8000], 8000), (speech, wanted, [16000])))
    assert len(here) == len(there)
    np.testing.assert_allclose(np.array(here) / 8000, np.array(there) / RATE, atol=0.15)


def test_nothing_is_speech_in_silence_and_in_nothing() -> None:
    for length in (0, 1, FRAME, 5 * RATE):
        assert parts_of(np.zeros(length, np.float32), VoiceActivitySettings(), [1000]) == []


def test_probabilities_do_not_depend_on_blocks(speech: Samples) -> None:
    whole, pieces = SpeechProbabilities(), SpeechProbabilities()
    expected = whole.push(speech)
    found = [pieces.push(speech[at : at + 777]) for at in range(0, len(speech), 777)]
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-4)


def test_noise_hum_clicks_breath_music_and_silence_are_no_speech() -> None:
    kinds = []
    for kind, samples in files_without_speech(30):
        kinds.append(kind)
        assert parts_of(samples[: 6 * RATE], VoiceActivitySettings(), [RATE]) == [], kind
    assert len(kinds) == 30
