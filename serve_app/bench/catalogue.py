"""The benchmarks by name. A benchmark's module is imported when it is run, so that listing them costs nothing."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from deployments.errors import fail
from serve_app.bench.frame import Report

SOURCE_TREE = Path(__file__).parents[2]
FILE_COLUMNS = 160
"""Columns of a table that is written to a file or a pipe."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark's summary, and the module whose `run(quick, **options)` carries it out.

    A benchmark that `draws` also has `draw(report, file)`, for a picture beside the JSON file. `replica_threads`: the
    benchmark runs engines in its own process with this many threads, and gets the environment of a replica with as many.
    """

    summary: str
    module: str
    options: tuple[str, ...] = ()
    draws: bool = False
    replica_threads: int = 0

    def run(self, quick: bool, **options: Any) -> Report:
        """Runs the benchmark; `quick` takes fewer rounds and ends within 50 s."""
        if self.replica_threads and options.get("device", "cpu") == "cpu":
            self._take_a_replicas_environment()
        report: Report = self.load().run(quick, **options)
        return report

    def load(self) -> Any:
        """Imports the benchmark's module. Developers' benchmarks are in `tests/load`, which only a source tree has.

        Raises `MotetError` (unavailable) without a source tree.
        """
        if self.module.startswith("tests.") and str(SOURCE_TREE) not in sys.path:
            if not (SOURCE_TREE / "tests" / "load").is_dir():
                raise fail("unavailable", "This benchmark is for developers.", "Run it from a clone of the source.")
            sys.path.insert(0, str(SOURCE_TREE))
        return importlib.import_module(self.module)

    def _take_a_replicas_environment(self) -> None:
        """Sets the environment of a replica, before libraries are imported, because they read it then."""
        from cluster.hardware import CpuClass

        os.environ.update(CpuClass(cpus=self.replica_threads, threads=self.replica_threads).environment())


BENCHMARKS: Mapping[str, Benchmark] = {
    "chaos": Benchmark(
        "Parts of the service die, stand still or run out of something, under load: what clients see",
        "serve_app.bench.chaos",
        options=("parts",),
    ),
    "cluster": Benchmark(
        "Three classes as a cluster: nodes are lost, and replicas follow the load", "tests.load.cluster"
    ),
    "first-sound": Benchmark(
        "Speed, overhead, memory and intelligibility of speech on this machine", "serve_app.bench.first_sound"
    ),
    "mlx": Benchmark("Models on MLX beside other runtimes, in 4 bits, and in a batch session", "tests.load.mlx"),
    "bulk": Benchmark(
        "Bulk jobs: their share of the engine's speed, and kill -9 at any moment", "serve_app.bench.bulk"
    ),
    "serve": Benchmark(
        "Many listeners at once: batches, load, overload, leavers and failures",
        "serve_app.bench.serve",
        options=("compare",),
    ),
    "load": Benchmark(
        "Up to three times the capacity, with a tail: who is refused, who waits, and keys that ask for too much",
        "serve_app.bench.load_curve",
    ),
    "plan": Benchmark(
        "What motet plan predicts for this machine, beside what the real service does", "serve_app.bench.plan"
    ),
    "limits": Benchmark(
        "What many replicas and gateways cost Ray Serve's controller, and how it grows",
        "serve_app.bench.limits",
    ),
    "speaking": Benchmark(
        "Texts as people write them, spoken and heard back; times of words; spoiled pieces that are found",
        "serve_app.bench.speaking",
        replica_threads=1,
    ),
    "hearing": Benchmark(
        "Transcription beside faster-whisper: speed, word errors, word times, hours, and sound without speech",
        "serve_app.bench.hearing",
        options=("parts",),
    ),
    "decoding": Benchmark(
        "Damaged files of every container, bombs, and what a decoder in a process of its own costs",
        "serve_app.bench.decoding",
    ),
    "separation": Benchmark(
        "Noise taken out of speech: SI-SDR, what chunks cost, and word errors before and after",
        "serve_app.bench.separation",
    ),
    "separation-kills": Benchmark(
        "A job that separates a long recording while separators, the gateway and the service are killed",
        "serve_app.bench.separation_kills",
    ),
    "soak": Benchmark(
        "An hour of mixed load: memory, files and threads of each process, and a leak that must be found",
        "serve_app.bench.soak",
        options=("minutes",),
        draws=True,
    ),
    "live": Benchmark(
        "Live sessions: text behind the speech, conversations, barge-in, and bad connections", "serve_app.bench.live"
    ),
    "tracing": Benchmark("What traces cost a request, while they are off and on", "serve_app.bench.tracing"),
    "kernels": Benchmark(
        "The kernels that layers choose on this processor, and steps beside those of one precision for all",
        "tests.load.kernels",
        replica_threads=1,
    ),
    "voices": Benchmark(
        "Our batched voices beside the models' own packages, stream for stream",
        "tests.load.voices",
        options=("model", "soak_minutes", "streams", "captured", "device"),
        draws=True,
        replica_threads=2,
    ),
}


def run(name: str, *, quick: bool, json_file: Path | None, **options: Any) -> int:
    """Runs a benchmark, prints its table and writes its JSON; returns the exit status, 1 when a target is not met.

    Raises `MotetError` for an unknown name, with the nearest one, and for options that the benchmark does not have.
    """
    if name not in BENCHMARKS:
        near = get_close_matches(name, BENCHMARKS, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Benchmarks: {', '.join(sorted(BENCHMARKS))}."
        raise fail("not_found", f"There is no benchmark {name!r}.", hint, param="name")
    benchmark = BENCHMARKS[name]
    if foreign := sorted(set(options) - set(benchmark.options)):
        raise fail(
            "invalid", f"The benchmark {name!r} has no option {foreign[0]!r}.", "Leave it out.", param=foreign[0]
        )
    report = benchmark.run(quick, **options)
    _print(report)
    if json_file is not None:
        report.write(json_file)
        if benchmark.draws:
            benchmark.load().draw(report, json_file.with_suffix(".png"))
    return report.exit_status


def _print(report: Report) -> None:
    if importlib.util.find_spec("rich") is None:
        print(report.in_text())
        return
    from rich.console import Console

    console = Console()
    report.show(console if console.is_terminal else Console(width=FILE_COLUMNS))
