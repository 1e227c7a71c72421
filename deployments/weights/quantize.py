"""Makes a model smaller, and says what that costs: size, memory, speed and words heard wrongly, before and after.

How is a table, one line for each library that runs the result. A result that hears, or is heard, worse than allowed is never
kept; one that is kept carries a manifest of what it was made from.
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

from deployments.engines import sources
from deployments.engines.registry import Task
from deployments.engines.sources import WEIGHT_SUFFIXES
from deployments.errors import fail

MANIFEST = "motet-quantisation.json"
INSTALL = "In the project's folder: pip install --constraint constraints.txt --editable"


@dataclass(frozen=True, slots=True)
class QuantizationOrder:
    """What to quantize, how, and where to: `source` as in a model's configuration, `strategy` a name in `STRATEGIES`.

    `max_increase` is by how much the word error rate may grow, as a share of all words.
    """

    source: str
    strategy: str
    bits: int
    group_size: int
    out: Path
    max_increase: float
    sha256: Mapping[str, str]


class Quantizer(Protocol):
    """A module that quantises for one library."""

    def original(self, folder: Path, work: Path) -> Path:
        """The source's weights as the library loads them; made in `work` if need be."""

    def task_of(self, folder: Path) -> Task:
        """What an original does."""

    def quantize(self, folder: Path, out: Path, bits: int, group_size: int) -> None:
        """Writes an original's quantised form into `out`, a folder that is there and empty."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """What a library can do: in how many bits, in groups of how many weights (none: no choice), and on which engines of
    ours its models run. `module` is a `Quantizer`."""

    module: str
    bits: tuple[int, ...]
    group_sizes: tuple[int, ...]
    engines: Mapping[Task, str]
    device: str
    remedy: str

    @property
    def method(self) -> Quantizer:
        """Imported when it is used. Raises `MotetError` when its library is missing."""
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
    """An engine to try, in a process of its own."""

    task: Task
    engine: str
    device: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a trial found. Sizes are bytes: of the weights' files, of the memory that the loaded model holds, and of the most
    that was held while it worked. `speed` is audio seconds per second of work, `word_error_rate` a share of all words."""

    disk_bytes: int
    memory_bytes: int
    peak_bytes: int
    load_seconds: float
    speed: float
    word_error_rate: float


Measure = Callable[[EvaluationTarget], Evaluation]


@dataclass(frozen=True, slots=True)
class QuantizedModel:
    """A result that was kept."""

    out: Path
    engine: str
    before: Evaluation
    after: Evaluation

    @property
    def increase(self) -> float:
        """By how much the word error rate grew."""
        return self.after.word_error_rate - self.before.word_error_rate


def quantize(order: QuantizationOrder, measure: Measure, progress: Callable[[str], None]) -> QuantizedModel:
    """Quantises, measures both, and keeps the result at `order.out` if it is good enough.

    Raises `MotetError` when it is not, and for what cannot be done; then nothing is left at `order.out`.
    """
    strategy = check(order)
    source = sources.folder_of(sources.parse(order.source), order.sha256)
    order.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{order.out.name}-", dir=order.out.parent) as folder:
        work, made = Path(folder, "original"), Path(folder, "quantised")
        work.mkdir()
        made.mkdir()
        original = _with_library(strategy, lambda: strategy.method.original(source, work))
        trial = _trial_of(order, strategy, original)
        progress("before")
        before = measure(trial)
        progress(f"to {order.bits} bits")
        _with_library(strategy, lambda: strategy.method.quantize(original, made, order.bits, order.group_size))
        progress("after")
        done = QuantizedModel(order.out, trial.engine, before, measure(replace(trial, folder=made)))
        refuse_worse(done, order.max_increase)
        (made / MANIFEST).write_text(json.dumps(manifest(order, original, made, done), indent=2) + "\n")
        made.rename(order.out)
    return done


def check(order: QuantizationOrder) -> Strategy:
    """The order's strategy. Raises `MotetError` for what it cannot do, before anything is loaded."""
    strategy = STRATEGIES.get(order.strategy)
    if strategy is None:
        raise fail("invalid", f"There is no way {order.strategy!r} to quantize.", f"Ways: {', '.join(STRATEGIES)}.")
    if order.bits not in strategy.bits:
        able = " or ".join(map(str, strategy.bits))
        raise fail("unsupported", f"{order.strategy} has no weights of {order.bits} bits.", f"Use --bits {able}.")
    if strategy.group_sizes and order.group_size not in strategy.group_sizes:
        sizes = ", ".join(map(str, strategy.group_sizes))
        raise fail("unsupported", f"{order.strategy} has no groups of {order.group_size}.", f"Group sizes: {sizes}.")
    if order.out.exists():
        raise fail("invalid", f"{order.out} is there already.", "Name a folder that is not, with --out.")
    return strategy


def refuse_worse(done: QuantizedModel, most: float) -> None:
    """Raises `MotetError` for a result whose words are wrong more often than allowed."""
    if done.increase > most:
        raise fail(
            "invalid",
            f"Quantised, {done.after.word_error_rate:.1%} of the words are wrong, before {done.before.word_error_rate:.1%}: "
            f"{done.increase * 100:.1f} percentage points more, {most * 100:g} are allowed. The result was removed.",
            "Use --bits 8 or a smaller --group-size, or allow more with --max-wer-increase-percent.",
            code="worse_than_allowed",
        )


def manifest(order: QuantizationOrder, original: Path, made: Path, done: QuantizedModel) -> dict[str, Any]:
    """What a result was made from and how, with the SHA-256 of every weight file on both sides."""
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
    """The files of a folder that hold weights."""
    return sorted(file for file in folder.rglob("*") if file.suffix in WEIGHT_SUFFIXES)


def _trial_of(order: QuantizationOrder, strategy: Strategy, original: Path) -> EvaluationTarget:
    task = _with_library(strategy, lambda: strategy.method.task_of(original))
    engine = strategy.engines.get(task)
    if engine is None:
        cause = f"What a {task} model loses cannot be told by the words of a round trip."
        raise fail("unsupported", cause, f"{order.strategy} quantises: {', '.join(strategy.engines)}.")
    return EvaluationTarget(task, engine, strategy.device, original)


def _with_library(strategy: Strategy, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except ImportError as error:
        raise fail("unavailable", f"This needs a library: {error}.", strategy.remedy) from error
