"""The benchmark of separation: its mixtures, its measure, and its figures."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.audio.decode import decode_all
from deployments.engines.protocols import Samples
from deployments.errors import MotetError
from serve_app.bench import separation, separation_graph, separation_live
from serve_app.bench.catalogue import BENCHMARKS
from serve_app.bench.frame import Sheet


def sound(seed: int) -> Samples:
    return np.random.default_rng(seed).standard_normal(48_000).astype(np.float32)


@pytest.mark.parametrize("ratio_db", separation.RATIOS_DB)
def test_a_mixture_has_its_ratio(ratio_db: int) -> None:
    speech, noise = sound(0), 7 * sound(1)
    rest = separation.mixed(speech, noise, ratio_db) - speech
    assert 20 * np.log10(np.linalg.norm(speech) / np.linalg.norm(rest)) == pytest.approx(ratio_db, abs=0.01)
    assert separation.si_sdr(speech + rest, speech) == pytest.approx(ratio_db, abs=0.2)
    assert separation.si_sdr(3 * (speech + rest), speech) == pytest.approx(ratio_db, abs=0.2)


def test_noises_are_long_enough_and_differ() -> None:
    noises = [separation._noise(name, 50_001) for name in separation.NOISES]
    assert {noise.shape for noise in noises} == {(50_001,)}
    assert len({noise.tobytes() for noise in noises}) == 5


def test_gains_and_losses_are_put_by_model_and_ratio() -> None:
    speech = sound(0)
    mixtures = {at: separation.mixed(speech, sound(1), at[1]) for at in separation._conditions()}
    better = {at: separation.mixed(speech, sound(1), at[1] + 6) for at in separation._conditions()}
    whole = {at: separation.mixed(speech, sound(1), at[1] + 8) for at in separation._conditions()}
    enhanced = {at: separation.Enhanced(better[at], whole[at]) for at in mixtures}
    sheet = Sheet(separation.figures(separation.QUICK), lambda text: None)
    separation._put_quality(sheet, "nsnet2", speech, mixtures, enhanced)
    assert sheet.value("nsnet2: SI-SDR gained at 0 dB, mean of five noises") == pytest.approx(6, abs=0.3)
    assert sheet.value("nsnet2: SI-SDR lost by chunks, worst of all") == pytest.approx(2, abs=0.3)
    lost = next(figure for figure in sheet.figures if figure.name.startswith("nsnet2: SI-SDR lost"))
    assert lost.verdict == "not met"


def test_a_tone_has_its_length_and_both_sides() -> None:
    blocks = list(separation_graph._tone(25.0))
    assert [block.shape for block in blocks] == [(2, 441_000), (2, 441_000), (2, 220_500)]
    assert max(np.abs(block).max() for block in blocks) < 0.5
    encoded = separation_graph._encoded(iter(blocks))
    assert len(encoded) < 25 * 44_100
    decoded = decode_all(encoded, sample_rate=44_100, mono=False, max_seconds=60)
    assert decoded.shape == (2, 25 * 44_100)


def test_it_is_in_the_catalogue() -> None:
    assert BENCHMARKS["separation"].load() is separation


def test_sound_is_late_by_the_time_from_its_message_to_its_last_byte() -> None:
    due = [(1.0, 10), (2.0, 20), (3.0, 30)]
    arrivals = [(1.5, 8), (1.75, 4), (2.5, 8), (3.5, 10)]
    assert separation_live.late_seconds(due, arrivals) == (0.75, 0.5, 0.5)
    with pytest.raises(MotetError, match="less sound"):
        separation_live.late_seconds(due, arrivals[:-1])


def test_live_sessions_are_measured_in_the_full_plan_only() -> None:
    names = {figure.name for figure in separation_live.figures()}
    assert names <= {figure.name for figure in separation.figures(separation.FULL)}
    assert not names & {figure.name for figure in separation.figures(separation.QUICK)}
