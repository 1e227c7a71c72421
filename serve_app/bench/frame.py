"""The frame of every benchmark: figures with targets, interleaved rounds, and a report with an exit status.

A benchmark declares its figures first and then measures them. A figure without a value counts as not met, so a failed
measurement never looks like a good one.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from rich.console import Console

Verdict = Literal["met", "not met", "-"]
LONGEST_NOTE = 200
"""Characters of an error message beside each figure without a value; the whole message is printed once."""

LIBRARIES = ("ray", "onnxruntime", "ctranslate2", "numpy", "torch")
"""The libraries whose versions a report names, if they are installed."""


@dataclass(frozen=True, slots=True)
class Target:
    """A bound for a value: `least` or `most`. The limit itself meets it."""

    at: Literal["least", "most"]
    limit: float

    def met_by(self, value: float) -> bool:
        """Whether the value meets the target."""
        return value >= self.limit if self.at == "least" else value <= self.limit

    def __str__(self) -> str:
        return f"at {self.at} {self.limit:,g}"


def at_least(limit: float) -> Target:
    """A target that `limit` or more meets."""
    return Target("least", limit)


def at_most(limit: float) -> Target:
    """A target that `limit` or less meets."""
    return Target("most", limit)


def target_for(target: Target, cases: int) -> Target | None:
    """The `target` of a percentage if the sample is large enough: one wrong case among `cases` must still meet it. Otherwise
    None, and the figure is printed without a verdict."""
    allowed = target.limit if target.at == "most" else 100 - target.limit
    return target if cases * allowed >= 100 else None


@dataclass(frozen=True, slots=True)
class Figure:
    """One result. `value` is in `unit`; None before it is measured."""

    name: str
    unit: str
    target: Target | None = None
    value: float | None = None
    note: str = ""

    @property
    def measured(self) -> bool:
        """Whether the value is a number."""
        return self.value is not None and not math.isnan(self.value)

    @property
    def verdict(self) -> Verdict:
        """`-` for a measured figure without a target. A figure that was not measured is not met, with or without a target."""
        if self.value is None or not self.measured:
            return "not met"
        if self.target is None:
            return "-"
        return "met" if self.target.met_by(self.value) else "not met"


class Sheet:
    """The figures of a benchmark while it runs. At the start none has a value."""

    def __init__(self, wanted: Sequence[Figure], progress: Callable[[str], None]) -> None:
        assert len({figure.name for figure in wanted}) == len(wanted), "two figures have one name"
        self._figures = {figure.name: figure for figure in wanted}
        self._progress = progress
        self.curves: dict[str, list[tuple[float, float]]] = {}
        """Series of (x, y) behind the figures, for the JSON file and the picture."""

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The figures in the order of their declaration."""
        return tuple(self._figures.values())

    def put(self, name: str, value: float, note: str = "") -> None:
        """Fills in a declared figure."""
        self._figures[name] = replace(self._figures[name], value=value, note=note)

    def value(self, name: str) -> float:
        """The value of a figure. Raises `ValueError` if it was not measured."""
        value = self._figures[name].value
        if value is None:
            raise ValueError(f"{name!r} was not measured")
        return value

    @contextmanager
    def measuring(self, what: str) -> Iterator[None]:
        """Reports an exception inside the context and suppresses it: the benchmark continues with the next figures."""
        self._progress(what)
        try:
            yield
        except Exception as error:
            self.blame(f"{what}: {type(error).__name__}: {error}")

    def blame(self, cause: str) -> None:
        """Reports why figures have no value. The shortened cause becomes the note of each figure without value and note."""
        self._progress(f"FAILED {cause}")
        for name, figure in self._figures.items():
            if not figure.measured and not figure.note:
                self._figures[name] = replace(figure, note=shorten(cause, LONGEST_NOTE))


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """The hardware and software of a run. `card` is the GPU."""

    cpu: str
    cores: int
    versions: Mapping[str, str]
    commit: str
    card: str = ""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """When and how long a benchmark ran. Times are in seconds; the load is the one-minute average."""

    mode: Literal["quick", "full"]
    started_utc: str
    duration_seconds: float
    load_at_start: float
    load_at_end: float
    machine: MachineInfo


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a benchmark."""

    name: str
    figures: tuple[Figure, ...]
    facts: RunInfo
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)

    @property
    def exit_status(self) -> int:
        """1 if a target is not met or a figure was not measured, otherwise 0."""
        return int(any(figure.verdict == "not met" for figure in self.figures))

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        figures = [asdict(figure) | {"verdict": figure.verdict} for figure in self.figures]
        return {
            "benchmark": self.name,
            "exit_status": self.exit_status,
            "figures": [figure if _finite(figure["value"]) else figure | {"value": None} for figure in figures],
            "facts": asdict(self.facts),
            **({"curves": self.curves} if self.curves else {}),
        }

    def write(self, file: Path) -> None:
        """Writes the report as JSON."""
        file.write_text(json.dumps(self.as_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def show(self, console: Console) -> None:
        """Prints the report as a table."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=f"motet bench {self.name} ({self.facts.mode})")
        table.add_column("figure")
        table.add_column("value", justify="right")
        for column in ("unit", "target", "verdict", "note"):
            table.add_column(column)
        for figure in self.figures:
            target = str(figure.target) if figure.target else ""
            table.add_row(
                figure.name, _text(figure), figure.unit, target, _coloured(figure.verdict), escape(figure.note)
            )
        console.print(table)
        console.print(_in_words(self.facts), style="dim", highlight=False)

    def in_text(self) -> str:
        """The report as plain text, for machines without `rich`."""
        rows = [("figure", "value", "unit", "target", "verdict", "note")]
        for figure in self.figures:
            target = str(figure.target) if figure.target else ""
            rows.append((figure.name, _text(figure), figure.unit, target, figure.verdict, figure.note))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        cells = (map(str.ljust, row, widths) for row in rows)
        lines = [f"motet bench {self.name} ({self.facts.mode})", *("  ".join(row).rstrip() for row in cells)]
        return "\n".join([*lines, _in_words(self.facts)])


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _text(figure: Figure) -> str:
    return f"{figure.value:,.4g}" if figure.measured else "not measured"


def _coloured(verdict: Verdict) -> str:
    colour = {"met": "green", "not met": "bold red", "-": "dim"}[verdict]
    return f"[{colour}]{verdict}[/]"


def _in_words(facts: RunInfo) -> str:
    machine = facts.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    hardware = f"{machine.cores} cores of {machine.cpu}" + (f", {machine.card}" if machine.card else "")
    return (
        f"{facts.started_utc}, {facts.duration_seconds:.0f} s, load {facts.load_at_start:.2f} at the start and "
        f"{facts.load_at_end:.2f} at the end, {hardware}, {versions}, commit {machine.commit}"
    )


@dataclass(frozen=True, slots=True)
class Instruments:
    """The sources of a report's facts: a monotonic clock in seconds, the time, the load, the machine, and a log."""

    clock: Callable[[], float]
    now: Callable[[], datetime]
    load: Callable[[], float]
    machine: Callable[[], MachineInfo]
    progress: Callable[[str], None]


def real_instruments() -> Instruments:
    """The instruments of this machine; progress goes to stderr."""
    return Instruments(
        clock=time.perf_counter,
        now=lambda: datetime.now(UTC),
        load=lambda: os.getloadavg()[0],
        machine=this_machine,
        progress=lambda text: print(f"{datetime.now():%H:%M:%S}  {text}", file=sys.stderr, flush=True),
    )


def carry_out(
    name: str,
    wanted: Sequence[Figure],
    measure: Callable[[Sheet], None],
    *,
    quick: bool,
    instruments: Instruments | None = None,
) -> Report:
    """Runs `measure`, which fills in the figures of `wanted`. Returns a report also after an exception in `measure`."""
    tools = instruments or real_instruments()
    sheet = Sheet(wanted, tools.progress)
    machine, load, started, now = tools.machine(), tools.load(), tools.clock(), tools.now()
    try:
        measure(sheet)
    except Exception as error:
        sheet.blame(f"{type(error).__name__}: {error}")
    facts = RunInfo(
        mode="quick" if quick else "full",
        started_utc=now.isoformat(timespec="seconds"),
        duration_seconds=round(tools.clock() - started, 3),
        load_at_start=load,
        load_at_end=tools.load(),
        machine=machine,
    )
    return Report(name, sheet.figures, facts, sheet.curves)


def this_machine() -> MachineInfo:
    """The machine, the libraries and the code that run now."""
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[library] = importlib.metadata.version(library)
    return MachineInfo(_cpu_model(), os.cpu_count() or 1, versions, _commit(Path(__file__).parent), _card_model())


def _card_model() -> str:
    """The name of torch's CUDA device; empty without one, or if torch is not imported."""
    torch = sys.modules.get("torch")
    return str(torch.cuda.get_device_name()) if torch and torch.cuda.is_available() else ""


def _cpu_model() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _commit(folder: Path) -> str:
    """The commit of the code, with ` dirty` if files differ from it; `unknown` outside a checkout."""
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit} dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def interleaved(variants: Mapping[str, Callable[[], float]], rounds: int, *, seed: int = 0) -> dict[str, list[float]]:
    """Measures every variant once in each round, so that changes of the machine's load affect all of them.

    The order changes from round to round by `seed`, so that no variant always follows the same other one. Values at the same
    position of the result are of the same round.
    """
    names = list(variants)
    results: dict[str, list[float]] = {name: [] for name in names}
    random = np.random.default_rng(seed)
    for _ in range(rounds):
        for position in random.permutation(len(names)):
            name = names[position]
            results[name].append(variants[name]())
    return results


@dataclass(frozen=True, slots=True)
class Spread:
    """Quantiles of some values, in the unit of the values."""

    p5: float
    p50: float
    p95: float

    def __str__(self) -> str:
        return f"{self.p5:.3g} to {self.p95:.3g} (p5 to p95)"


def spread(values: Sequence[float]) -> Spread:
    """The interpolated quantiles. Raises `ValueError` for no values."""
    if not values:
        raise ValueError("There are no values.")
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    return Spread(float(low), float(middle), float(high))


def ratio(values: Sequence[float], base: Sequence[float]) -> Spread:
    """The quantiles of value / base, round by round."""
    return spread([value / other for value, other in zip(values, base, strict=True)])


def difference(values: Sequence[float], base: Sequence[float]) -> Spread:
    """The quantiles of value - base, round by round."""
    return spread([value - other for value, other in zip(values, base, strict=True)])
