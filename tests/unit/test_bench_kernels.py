"""The benchmark of kernels measures each figure of a model's steps and shapes, on fake layers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.engines.lm.kernel_store import ChosenKernel
from deployments.engines.lm.linear import LinearSpec
from serve_app.bench.catalogue import BENCHMARKS
from serve_app.bench.frame import Sheet
from tests.load import kernels
from tests.load.kernels import KernelModel


def model(measured_seconds: float) -> KernelModel:
    spec = LinearSpec(64, 32, "int8", "int8", ((1, 1.0), (8, 1.0)))
    times = {"int8": {"1": 0.002, "8": 0.004}, "bfloat16": {"1": 0.001, "8": 0.002}}
    pinned = LinearSpec(8, 8, "float32", "float32", ((1, 1.0),))
    chosen = {spec: ChosenKernel("bfloat16", times), pinned: ChosenKernel("float32", {})}
    choice: Any = SimpleNamespace(chosen=chosen, seconds_spent=0.5, measured=1, store=Path())
    seconds = {"float32": 4.0, "int8": 2.0, "measured": measured_seconds}
    return KernelModel("tiny", {"step of 1": {name: partial(float, value) for name, value in seconds.items()}}, choice)


@pytest.mark.parametrize(("seconds", "verdict"), [(1.0, "met"), (2.05, "met"), (2.2, "not met")])
def test_the_measured_choice_is_held_against_the_best_precision(seconds: float, verdict: str) -> None:
    made = model(seconds)
    sheet = Sheet(kernels._wanted(made), print)
    kernels._measure(sheet, [made], rounds=3)
    figures = {figure.name: figure for figure in sheet.figures}
    assert all(figure.measured for figure in sheet.figures)
    against = figures["tiny, step of 1 against the best precision"]
    assert against.value == pytest.approx(2.0 / seconds) and against.verdict == verdict
    rate = figures["tiny 64x32, 8 of 1/8 rows"]
    assert rate.value == pytest.approx(2 * 8 * 64 * 32 / 0.002 / 1e6)
    assert rate.note.startswith("bfloat16, 2.00x int8;")
    assert not [name for name in figures if "8x8" in name]


def test_it_is_in_the_catalogue() -> None:
    assert BENCHMARKS["kernels"].module == "tests.load.kernels"
