"""The benchmark against IndexTTS's package with a tiny model: every figure is measured, with equal numbers of codes."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import pytest
import torch

from deployments.errors import MotetError
from serve_app.bench.frame import Sheet
from tests.load import voices, voices_indextts, voices_soak
from tests.load.voices_indextts import CHARACTERS, IndexContest, IndexVoicesPlan, MemoryWatch, Served, text
from tests.unit.indextts_models import TINY

SHAPE = {"gpt": {**TINY["gpt"], "number_text_tokens": 4096}}


@pytest.mark.long
def test_every_figure_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("indextts25")
    plan = IndexVoicesPlan(10, 1, voices_indextts.OURS)
    sheet = Sheet(voices_indextts.wanted(plan), print)
    voices_indextts.measure(sheet, tmp_path / "model", plan, SHAPE)
    figures = {figure.name: figure for figure in sheet.figures}
    assert all(figure.measured for figure in sheet.figures), figures
    assert figures["int8, 4 at once"].value and figures["memory, package"].value


@pytest.mark.long
def test_a_soak_frees_every_slot(tmp_path: Path) -> None:
    pytest.importorskip("indextts25")
    contest = IndexContest(tmp_path / "model", 10, SHAPE)
    contest.build("int8")
    sheet = Sheet(voices_soak.SOAK, print)
    voices_soak.soak(sheet, contest, minutes=0.5, clock=partial(next, itertools.count()))  # 30 steps, a second each
    figures = {figure.name: figure for figure in sheet.figures}
    assert figures["slots taken when all have left"].value == 0
    assert all(figure.measured for figure in sheet.figures)


def test_options_of_other_contests_are_refused() -> None:
    with pytest.raises(MotetError, match="no option 'streams'"):
        voices.run(True, "indextts", streams=(1, 8))


def test_texts_have_100_characters_and_differ() -> None:
    texts = [text(number) for number in range(8)]
    assert {len(words) for words in texts} == {CHARACTERS}
    assert len(set(texts)) == 8


def test_in_a_queue_everyone_waits_for_those_before() -> None:
    alone, together = Served((2.0,), 10), Served((3.0, 3.0, 3.0, 3.0), 10)
    assert alone.rate == alone.queued(4).rate == 5
    assert alone.queued(4).mean_latency == 5
    assert (together.rate, together.mean_latency) == (40 / 3, 3)


def test_memory_is_what_the_process_has_taken_meanwhile() -> None:
    with MemoryWatch() as memory:
        kept = torch.ones(30_000_000)
        memory.look()
        del kept
    assert memory.peak_bytes > 100e6 > memory.bytes
