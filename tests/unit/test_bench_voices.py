"""The benchmark of voices with a tiny model: every figure is measured, and both sides speak equally long."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deployments.engines.graphs import Bucket
from deployments.engines.protocols import AudioChunk
from serve_app.bench.frame import Figure, Sheet, carry_out
from tests.load import voices, voices_picture, voices_soak, voices_sopro
from tests.load.voice_runs import run_package, run_together
from tests.load.voices import VoicesPlan
from tests.load.voices_picture import draw
from tests.load.voices_sopro import SoproContest
from tests.unit.sopro_models import TINY


class Repeating:
    """A backend that records nothing and runs the step again."""

    def capture(self, step, buffers, length):  # type: ignore[no-untyped-def]
        return lambda: step(buffers, length)


@pytest.fixture
def contest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoproContest:
    monkeypatch.setattr(voices_sopro, "backend_for", lambda device: Repeating())
    return SoproContest(tmp_path / "sopro", 1.6, TINY)


@pytest.mark.long
def test_every_figure_is_measured(contest: SoproContest, tmp_path: Path) -> None:
    plan = VoicesPlan(1.6, 1, 1, (1, 4, 8), (Bucket(2, 128), Bucket(8, 128)), 0.4)
    sheet = Sheet(voices._wanted("sopro", plan), print)
    voices._measure(sheet, contest, plan)
    figures = {figure.name: figure for figure in sheet.figures}
    assert all(figure.measured for figure in sheet.figures), figures
    assert figures["captured step apart from plain, 8 rows, 128 positions"].verdict == "met"
    report = carry_out("voices of sopro", sheet.figures, lambda _: None, quick=True)
    draw(report, tmp_path / "voices.png")
    assert (tmp_path / "voices.png").stat().st_size > 5000


def test_both_sides_speak_as_long(contest: SoproContest) -> None:
    ours = run_together(contest, 2)
    theirs = run_package(contest.package[0], 0)
    assert ours.seconds_of_audio == pytest.approx(2 * theirs.seconds_of_audio)
    assert theirs.seconds_of_audio > 1.5
    assert all(0 < first < ours.seconds for first in ours.first_audio)


@pytest.mark.long
def test_a_soak_frees_every_slot(contest: SoproContest) -> None:
    sheet = Sheet(voices_soak.SOAK, print)
    voices_soak.soak(sheet, contest, minutes=0.5, clock=partial(next, itertools.count()))  # 30 steps, a second each
    figures: dict[str, Figure] = {figure.name: figure for figure in sheet.figures}
    assert figures["slots taken when all have left"].value == 0
    assert figures["growth"].measured
    assert (figures["of them left early"].value or 0) > 0


class Leaking:
    """An engine whose streams take 4 MB each while they last, and leave `leaked_mb` behind."""

    def __init__(self, leaked_mb: int) -> None:
        self.engine: Any = self
        self._leaked_mb, self._left = leaked_mb, list[Any]()

    def request(self, number: int) -> Any:
        return number

    def open(self, request: Any) -> Any:
        return SimpleNamespace(memory=np.ones(500_000), steps=0, finished=False)

    def step(self, utterances: Sequence[Any]) -> list[Any]:
        for utterance in utterances:
            utterance.steps += 1
            utterance.finished = utterance.steps == 3
            if utterance.finished:
                self._left.append(np.ones(125_000 * self._leaked_mb))
        return [AudioChunk(np.zeros(1, np.float32), 24_000, 0, "", last=True)] * len(utterances)

    def close(self, utterance: Any) -> None:
        utterance.memory = None


@pytest.mark.parametrize(("leaked_mb", "verdict"), [(0, "met"), (3, "not met")])
def test_a_soak_sees_a_leak(leaked_mb: int, verdict: str) -> None:
    sheet = Sheet(voices_soak.SOAK, print)
    voices_soak.soak(sheet, Leaking(leaked_mb), minutes=0.5, clock=partial(next, itertools.count()))
    figures = {figure.name: figure for figure in sheet.figures}
    assert figures["growth"].verdict == verdict


def test_a_picture_has_a_line_for_each_who_speaks(tmp_path: Path) -> None:
    figures = [
        Figure("package, 1 streams", "audio s/s", None, 1.0),
        Figure("int8, 1 streams", "audio s/s", None, 2.0),
        Figure("int8, 8 streams", "audio s/s", None, 3.0),
        Figure("int8 against the package, 8 streams", "x", None, 3.0),
        Figure("8 streams, first audio p95", "ms", None, 70.0),
    ]
    report = carry_out("voices of kokoro", figures, lambda _: None, quick=True)
    speeds = voices_picture.series_of(report, " streams", "audio s/s")
    assert speeds == {"package": [(1, 1.0)], "int8": [(1, 2.0), (8, 3.0)]}
    assert voices_picture.series_of(report, " streams, first audio p95", "ms") == {"": [(8, 70.0)]}
    draw(report, tmp_path / "kokoro.png")
    assert (tmp_path / "kokoro.png").stat().st_size > 5000
    draw(carry_out("voices of none", [], lambda _: None, quick=True), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
