"""The benchmark of VibeVoice-Realtime with a tiny model: every figure is measured, and every stream lasts as long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve_app.bench.frame import Sheet
from tests.load import voices_soak, voices_steps, voices_vibevoice_realtime
from tests.load.shapes import read
from tests.load.voice_runs import run_together
from tests.load.voices_vibevoice_realtime import QUICK, VibeVoiceRealtimeContest, step_plan
from tests.unit.test_bench_voices_vibevoice import Repeating
from tests.unit.vibevoice_realtime_models import CONFIG

TINY = replace(QUICK, seconds=0.3, rounds=1)


@pytest.fixture
def contest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VibeVoiceRealtimeContest:
    monkeypatch.setattr(voices_vibevoice_realtime, "sizes", lambda plan: CONFIG)
    for module in (voices_steps, voices_vibevoice_realtime):
        monkeypatch.setattr(module, "backend_for", lambda device: Repeating())
    return VibeVoiceRealtimeContest(tmp_path, TINY, "int8", "cpu", read("vibevoice_realtime")["tiny"])


@pytest.mark.long
def test_every_figure_is_measured(contest: VibeVoiceRealtimeContest) -> None:
    plan = step_plan(TINY, (1, 2), captured=True)
    sheet = Sheet(voices_steps.wanted(plan), print)
    contest.record_windows(plan.recorded)
    voices_steps.measure(sheet, contest, plan)
    assert [figure.name for figure in sheet.figures if not figure.measured] == ["building the model"]
    assert contest.engine.window_step.counts.replayed > 0


def test_every_stream_lasts_as_long(contest: VibeVoiceRealtimeContest) -> None:
    seconds: Any = int(0.3 * 75) / 75
    assert run_together(contest, 2).seconds_of_audio == pytest.approx(2 * seconds)


@pytest.mark.long
def test_a_soak_frees_every_slot(contest: VibeVoiceRealtimeContest) -> None:
    sheet = Sheet(voices_soak.SOAK, print)
    voices_soak.soak(sheet, contest, minutes=0.03)
    figures = {figure.name: figure for figure in sheet.figures}
    assert figures["slots taken when all have left"].value == 0
