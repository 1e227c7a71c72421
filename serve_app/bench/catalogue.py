"""The benchmarks by name. A benchmark's module is imported when it is run, so that listing them costs nothing."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from rich.console import Console

from deployments.errors import fail
from serve_app.bench.frame import Report

FILE_COLUMNS = 160
"""Of a table that goes into a file or a pipe."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What a benchmark is about, and the module whose `run(quick)` carries it out; one that has `variants` takes `compare`
    as well."""

    summary: str
    module: str
    variants: bool = False

    def run(self, quick: bool, compare: bool) -> Report:
        """Measures; `quick` takes fewer rounds and ends within 50 s, if nothing more is compared."""
        run = importlib.import_module(self.module).run
        report: Report = run(quick, compare=True) if compare else run(quick)
        return report


BENCHMARKS: Mapping[str, Benchmark] = {
    "cluster": Benchmark(
        "Three classes as a cluster: a node is lost, and replicas follow the load", "serve_app.bench.cluster"
    ),
    "first-sound": Benchmark(
        "Speed, overhead, memory and intelligibility of speech on this machine", "serve_app.bench.first_sound"
    ),
    "mlx": Benchmark("Models on MLX beside other runtimes, in 4 bits, and in a batch session", "serve_app.bench.mlx"),
    "serve": Benchmark(
        "Many listeners at once: batches, load, overload, leavers and failures", "serve_app.bench.serve", variants=True
    ),
}


def run(name: str, *, quick: bool, compare: bool, json_file: Path | None) -> int:
    """Runs a benchmark, prints its table and writes its JSON; returns the exit status, 1 when a target is not met.

    Raises `MotetError` with the nearest name for one that does not exist, and for `compare` where there are no variants.
    """
    if name not in BENCHMARKS:
        near = get_close_matches(name, BENCHMARKS, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Benchmarks: {', '.join(sorted(BENCHMARKS))}."
        raise fail("not_found", f"There is no benchmark {name!r}.", hint, param="name")
    if compare and not BENCHMARKS[name].variants:
        raise fail("invalid", f"{name} has no variants to compare.", "Leave --compare out.", param="compare")
    report = BENCHMARKS[name].run(quick, compare)
    console = Console()
    report.show(console if console.is_terminal else Console(width=FILE_COLUMNS))
    if json_file is not None:
        report.write(json_file)
    return report.exit_status
