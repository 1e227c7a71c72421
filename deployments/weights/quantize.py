"""Quantizes a model, and compares it with the original: size, memory, speed and word error rate.

`STRATEGIES` has one entry for each library that runs the result. A result whose word error rate grows more than allowed is
removed; one that is kept has a manifest of its source.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

from deployments.engines import weight_sources
from deployments.engines.registry import Task
from deployments.errors import fail
from deployments.hub.files import WEIGHT_SUFFIXES

MANIFEST = "motet-quantisation.json"
INSTALL = "In the project's folder: pip install --constraint constraints.txt --editable"


@dataclass(frozen=True, slots=True)
class QuantizationOrder:
    """A quantization to do: `source` as in a model's configuration, `strategy` a name in `STRATEGIES`.

    `max_increase` is how much the word error rate may grow, as a share of all words.
    """

    source: str
    strategy: str
    bits: int
    group_size: int
    out: Path
    max_increase: float
    sha256: Mapping[str, str]


class Quantizer(Protocol):
    """A module that quantizes for one library."""

    def original(self, folder: Path, work: Path) -> Path:
        """The folder of the source's weights in the library's format; converted into `work` if necessary."""

    def task_of(self, folder: Path) -> Task:
        """The task of the model."""

    def quantize(self, folder: Path, out: Path, bits: int, group_size: int) -> None:
        """Writes the quantized model of an `original` folder into `out`, an existing empty folder."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """What a library supports: bits, group sizes (empty: no choice), and the engines that run its models. `module` implements
    `Quantizer`."""

    module: str
    bits: tuple[int, ...]
    group_sizes: tuple[int, ...]
    engines: Mapping[Task, str]
    device: str
    remedy: str

    @property
    def method(self) -> Quantizer:
        """Imported on use. Raises `ImportError` if its library is not installed."""
        return cast("Quantizer", importlib.import_module(self.module))


STRATEGIES: Mapping[str, Strategy] = {
    "mlx": Strategy(
        "deployments.weights.quantize_mlx",
        bits=(4, 8),
        group_sizes=(32, 64, 128),
        engines={"transcription": "mlx_recognition", "speech": "mlx_speech"},
        device="mlx",
        remedy=f"{INSTALL} '.[mlx,bench]'",
    ),
    "ctranslate2": Strategy(
        "deployments.weights.quantize_ctranslate2",
        bits=(8,),
        group_sizes=(),
        engines={"transcription": "whisper"},
        device="cpu",
        remedy=f"{INSTALL} '.[torch,mlx,bench]'",
    ),
}


@dataclass(frozen=True, slots=True)
class EvaluationTarget:
    """An engine and a folder of weights to evaluate."""

    task: Task
    engine: str
    device: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The results of an evaluation. Sizes are bytes: of the weight files, of the memory after loading, and of the peak.
    `speed` is seconds of audio per second of work; `word_error_rate` a share of all words."""

    disk_bytes: int
    memory_bytes: int
    peak_bytes: int
    load_seconds: float
    speed: float
    word_error_rate: float


Measure = Callable[[EvaluationTarget], Evaluation]


@dataclass(frozen=True, slots=True)
class QuantizedModel:
    """A quantized model that was kept."""

    out: Path
    engine: str
    before: Evaluation
    after: Evaluation

    @property
    def increase(self) -> float:
        """The growth of the word error rate."""
        return self.after.word_error_rate - self.before.word_error_rate


def quantize(order: QuantizationOrder, measure: Measure, progress: Callable[[str], None]) -> QuantizedModel:
    """Quantizes, evaluates both models, and keeps the result at `order.out` if it is good enough.

    Raises `MotetError` if it is not, and for an unsupported order; then nothing is left at `order.out`.
    """
    strategy = check(order)
    source = weight_sources.folder_of(weight_sources.parse(order.source), order.sha256)
    order.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{order.out.name}-", dir=order.out.parent) as folder:
        work, made = Path(folder, "original"), Path(folder, "quantised")
        work.mkdir()
        made.mkdir()
        original = _with_library(strategy, lambda: strategy.method.original(source, work))
        target = _target_of(order, strategy, original)
        progress("before")
        before = measure(target)
        progress(f"to {order.bits} bits")
        _with_library(strategy, lambda: strategy.method.quantize(original, made, order.bits, order.group_size))
        progress("after")
        done = QuantizedModel(order.out, target.engine, before, measure(replace(target, folder=made)))
        refuse_worse(done, order.max_increase)
        (made / MANIFEST).write_text(json.dumps(manifest(order, original, made, done), indent=2) + "\n")
        made.rename(order.out)
    return done


def check(order: QuantizationOrder) -> Strategy:
    """The order's strategy. Raises `MotetError` for an unsupported order, before anything is loaded."""
    strategy = STRATEGIES.get(order.strategy)
    if strategy is None:
        raise fail("invalid", f"The library {order.strategy!r} is unknown.", f"Use --to {' or '.join(STRATEGIES)}.")
    if order.bits not in strategy.bits:
        able = " or ".join(map(str, strategy.bits))
        raise fail("unsupported", f"{order.strategy} does not quantize to {order.bits} bits.", f"Use --bits {able}.")
    if strategy.group_sizes and order.group_size not in strategy.group_sizes:
        sizes = ", ".join(map(str, strategy.group_sizes))
        raise fail("unsupported", f"{order.strategy} has no group size {order.group_size}.", f"Group sizes: {sizes}.")
    if order.out.exists():
        raise fail("invalid", f"{order.out} already exists.", "Name a new folder with -o.")
    return strategy


def refuse_worse(done: QuantizedModel, most: float) -> None:
    """Raises `MotetError` if the word error rate grew more than allowed."""
    if done.increase > most:
        raise fail(
            "invalid",
            f"The word error rate is {done.after.word_error_rate:.1%}, and was {done.before.word_error_rate:.1%} before: "
            f"{done.increase * 100:.1f} percentage points more, {most * 100:g} are allowed. The result was removed.",
            "Use --bits 8 or a smaller --group-size, or allow more with --max-wer-increase-percent.",
            code="worse_than_allowed",
        )


def manifest(order: QuantizationOrder, original: Path, made: Path, done: QuantizedModel) -> dict[str, Any]:
    """The source and the settings of a result, with the SHA-256 of every weight file before and after."""
    return {
        "source": order.source,
        "strategy": order.strategy,
        "bits": order.bits,
        "group_size": order.group_size if STRATEGIES[order.strategy].group_sizes else None,
        "source_sha256": hashes(original),
        "sha256": hashes(made),
        "before": asdict(done.before),
        "after": asdict(done.after),
    }


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every weight file by its path in the folder."""
    found = {}
    for file in weight_files(folder):
        with file.open("rb") as stream:
            found[str(file.relative_to(folder))] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def weight_files(folder: Path) -> Sequence[Path]:
    """The weight files of a folder."""
    return sorted(file for file in folder.rglob("*") if file.suffix in WEIGHT_SUFFIXES)


def _target_of(order: QuantizationOrder, strategy: Strategy, original: Path) -> EvaluationTarget:
    task = _with_library(strategy, lambda: strategy.method.task_of(original))
    engine = strategy.engines.get(task)
    if engine is None:
        cause = f"A {task} model has no word error rate to check the result by."
        raise fail("unsupported", cause, f"{order.strategy} quantizes: {', '.join(strategy.engines)}.")
    return EvaluationTarget(task, engine, strategy.device, original)


def _with_library(strategy: Strategy, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except ImportError as error:
        raise fail("unavailable", f"A library is not installed: {error}.", strategy.remedy) from error
