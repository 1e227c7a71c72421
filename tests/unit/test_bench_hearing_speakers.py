"""The mixtures of voices on which the diarization error rate is measured."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from deployments.engines.protocols import Samples
from serve_app.bench import hearing_speakers
from serve_app.bench.diarization_error import diarization_error
from serve_app.bench.frame import carry_out
from serve_app.bench.hearing_noise import NOISE_RATE
from serve_app.bench.hearing_speakers import CAST, VoiceMixture, find_turns, make_mixtures, speaking


def beeps(name: str) -> list[Samples]:
    """A sentence of two words with half a second between them."""
    moments = np.arange(NOISE_RATE) / NOISE_RATE
    tone = (0.07 * np.sin(2 * np.pi * 100 * (1 + CAST.index(name)) * moments)).astype(np.float32)
    return [np.concatenate([tone, np.zeros(NOISE_RATE // 2, np.float32), tone])]


@pytest.fixture(scope="module")
def mixtures() -> list[VoiceMixture]:
    return make_mixtures(10, {name: beeps(name) for name in CAST})


def test_mixtures_are_of_two_and_three_voices_and_the_same_each_time(mixtures: list[VoiceMixture]) -> None:
    assert [mixture.voices for mixture in mixtures] == [2, 3] * 5
    again = make_mixtures(2, {name: beeps(name) for name in CAST})
    assert all(np.array_equal(one.samples, two.samples) for one, two in zip(mixtures[:2], again, strict=True))
    assert {turn.speaker for mixture in mixtures for turn in mixture.turns} == set(CAST)


def test_two_similar_voices_never_meet(mixtures: list[VoiceMixture]) -> None:
    similar = {"jf_gongitsune", "jf_nezumi"}
    assert not [mixture for mixture in mixtures if similar <= {turn.speaker for turn in mixture.turns}]


def test_turns_are_where_the_sound_is(mixtures: list[VoiceMixture]) -> None:
    for mixture in mixtures:
        turns = mixture.turns
        assert all(before.end_s <= after.start_s for before, after in pairwise(turns))
        assert turns[-1].end_s <= len(mixture.samples) / NOISE_RATE
        spoken = np.zeros(len(mixture.samples), bool)
        for turn in turns:
            spoken[round(turn.start_s * NOISE_RATE) : round(turn.end_s * NOISE_RATE)] = True
        assert np.abs(mixture.samples[spoken]).mean() > 2 * np.abs(mixture.samples[~spoken]).mean()


def test_the_voices_of_hibari_are_told_apart() -> None:
    """hibari, lower and higher."""
    said = speaking(kokoro=False)
    assert list(said) == ["hibari", "lower", "higher"]
    (mixture,) = make_mixtures(1, said)
    found = find_turns(mixture)
    assert len({turn.speaker for turn in found}) == mixture.voices
    assert diarization_error(mixture.turns, found).rate < 0.05


def test_every_figure_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hearing_speakers, "speaking", lambda kokoro: {name: beeps(name) for name in CAST})
    monkeypatch.setattr(hearing_speakers, "find_turns", lambda mixture, speakers=None: mixture.turns[:-1])
    report = carry_out(
        "speakers",
        hearing_speakers.figures(2),
        lambda sheet: hearing_speakers.measure_speakers(sheet, 2, kokoro=True),
        quick=True,
    )
    assert all(figure.measured for figure in report.figures)
    assert 0 < (report.figures[0].value or 0) < 50
