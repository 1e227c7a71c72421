"""The benchmark of VibeVoice with a tiny model: every figure is measured, and every frame has audio."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from serve_app.bench.frame import Sheet, carry_out
from tests.load import voices_soak, voices_steps, voices_vibevoice
from tests.load.random_weights import RandomWeights
from tests.load.voice_runs import run_together
from tests.load.voices_picture import draw
from tests.load.voices_vibevoice import QUICK, VibeVoiceContest, step_plan

TINY = replace(QUICK, layers=1, seconds=0.3, rounds=1)


class Repeating:
    """A backend that records nothing and runs the step again."""

    def capture(self, step: Any, buffers: Any, length: int) -> Any:
        return lambda: step(buffers, length)


@pytest.fixture
def contest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VibeVoiceContest:
    whole = voices_vibevoice.sizes

    def small(plan: Any) -> dict[str, Any]:
        values = whole(plan)
        values["text_config"] |= {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2}
        values["diffusion_head_config"] |= {"hidden_size": 64, "intermediate_size": 96}
        for codec in ("audio_config", "semantic_model_config"):
            values[codec] |= {"num_filters": 4}
        return values

    monkeypatch.setattr(voices_vibevoice, "sizes", small)
    monkeypatch.setattr(voices_steps, "backend_for", lambda device: Repeating())
    return VibeVoiceContest(tmp_path, TINY, "int8", "cpu", voices_vibevoice.package_shapes(small(TINY)))


@pytest.mark.long
def test_every_figure_is_measured(contest: VibeVoiceContest, tmp_path: Path) -> None:
    plan = step_plan(TINY, (1, 2), captured=True)
    sheet = Sheet(voices_steps.wanted(plan), print)
    voices_steps.measure(sheet, contest, plan)
    missing = [figure.name for figure in sheet.figures if not figure.measured]
    assert missing == ["building the model"]
    draw(carry_out("voices of vibevoice", sheet.figures, lambda _: None, quick=True), tmp_path / "voices.png")
    assert (tmp_path / "voices.png").stat().st_size > 5000


def test_every_stream_lasts_as_long(contest: VibeVoiceContest) -> None:
    assert run_together(contest, 2).seconds_of_audio == pytest.approx(2 * int(0.3 * 7.5) / 7.5)


@pytest.mark.long
def test_a_soak_frees_every_slot(contest: VibeVoiceContest) -> None:
    sheet = Sheet(voices_soak.SOAK, print)
    voices_soak.soak(sheet, contest, minutes=0.03)
    figures = {figure.name: figure for figure in sheet.figures}
    assert figures["slots taken when all have left"].value == 0


def test_random_weights_are_the_same_whenever_they_are_asked_for() -> None:
    made = RandomWeights({"a.weight": (3, 700_000), "b.weight": (3, 700_000), "a.bias": (4,), "norm.weight": (4,)})
    assert torch.equal(made["a.weight"], made["a.weight"]) and not torch.equal(made["a.weight"], made["b.weight"])
    assert made["a.weight"].float().std() == pytest.approx(700_000**-0.5, rel=0.05)
    assert not made["a.bias"].any() and made["norm.weight"].eq(1).all()
