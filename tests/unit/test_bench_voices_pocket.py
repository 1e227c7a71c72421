"""The benchmark of Pocket-TTS with a tiny model: every figure is measured, and all streams are equally long."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import pytest
from transformers import PocketTTSAudioTokenizerConfig, PocketTTSConfig

from serve_app.bench.frame import Sheet
from tests.load import voices_soak
from tests.load.voice_runs import run_package, run_together
from tests.load.voices_pocket import PocketContest, PocketVoicesPlan, measure_streams, wanted

SECONDS = 0.8


@pytest.fixture
def contest(tmp_path: Path) -> PocketContest:
    head = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "latent_dim": 8,
        "condition_dim": 48,
        "frequency_embedding_size": 16,
    }
    model = PocketTTSConfig(
        flow_head_config=head, hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64,
        latent_dim=8, head_dim=12, num_key_value_heads=4,
    )  # fmt: skip
    codec = PocketTTSAudioTokenizerConfig(
        hidden_size=32, num_filters=4, upsample_groups=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, intermediate_size=32, latent_dim=8,
    )  # fmt: skip
    return PocketContest(tmp_path, SECONDS, model, codec)


@pytest.mark.long
def test_every_figure_is_measured(contest: PocketContest) -> None:
    plan = PocketVoicesPlan(SECONDS, 1, (1, 8))
    sheet = Sheet(wanted(plan), print)
    measure_streams(sheet, contest, plan)
    assert all(figure.measured for figure in sheet.figures)


def test_every_stream_lasts_as_long_as_the_packages(contest: PocketContest) -> None:
    assert run_together(contest, 2).seconds_of_audio == pytest.approx(2 * SECONDS)
    assert run_package(contest.package[0], 0).seconds_of_audio == pytest.approx(SECONDS)


@pytest.mark.long
def test_a_soak_fills_and_frees_every_slot(contest: PocketContest) -> None:
    sheet = Sheet(voices_soak.SOAK, print)
    voices_soak.soak(sheet, contest, minutes=0.5, clock=partial(next, itertools.count()))  # 30 steps, a second each
    figures = {figure.name: figure.value for figure in sheet.figures}
    assert figures["streams at a time"] == contest.engine.max_streams
    assert figures["slots taken when all have left"] == 0
