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


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What a benchmark is about, and the module whose `run(quick)` carries it out."""

    summary: str
    module: str

    def run(self, quick: bool) -> Report:
        """Measures; `quick` takes fewer rounds and ends within 50 s."""
        report: Report = importlib.import_module(self.module).run(quick)
        return report


BENCHMARKS: Mapping[str, Benchmark] = {
    "first-sound": Benchmark(
        "Speed, overhead, memory and intelligibility of speech on this machine", "serve_app.bench.first_sound"
    ),
    "voices-kokoro": Benchmark("Kokoro beside its own package on the same weights", "serve_app.bench.voices_kokoro"),
    "serve": Benchmark(
        "Many listeners at once: batches, load, overload, leavers and failures", "serve_app.bench.serve"
    ),
}


def run(name: str, *, quick: bool, json_file: Path | None) -> int:
    """Runs a benchmark, prints its table and writes its JSON; returns the exit status, 1 when a target is not met.

    Raises `MotetError` with the nearest name for one that does not exist.
    """
    if name not in BENCHMARKS:
        near = get_close_matches(name, BENCHMARKS, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Benchmarks: {', '.join(sorted(BENCHMARKS))}."
        raise fail("not_found", f"There is no benchmark {name!r}.", hint, param="name")
    report = BENCHMARKS[name].run(quick)
    report.show(Console())
    if json_file is not None:
        report.write(json_file)
    return report.exit_status
