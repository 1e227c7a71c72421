"""Runs a benchmark in this checkout and in one of an earlier commit, by turns, and compares their figures.

    python -m tests.load.before_after first-sound --before ../motet-before --rounds 3

Each figure is the median of its rounds. A figure with a target is worse when it moves away from it. The exit status is 1 when
one is worse by more than `--within` percent. A machine that changes its speed between rounds shows in the spread: the largest
distance of a round from the median, as a share of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[2]
Figures = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A figure of both checkouts over all rounds. `better` is "least" (the target is a lower bound), "most" or ""."""

    name: str
    unit: str
    better: str
    before: tuple[float, ...]
    now: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """The median now over the median before; NaN if that is zero."""
        return median(self.now) / median(self.before) if median(self.before) else float("nan")

    @property
    def spread(self) -> float:
        """The largest distance of a round from its median, as a share of the median."""
        return max(
            abs(value / median(rounds) - 1) for rounds in (self.before, self.now) if median(rounds) for value in rounds
        )

    def is_worse(self, within: float) -> bool:
        """Whether the figure moved away from its target by more than a share of itself."""
        if self.better == "least":
            return self.ratio < 1 - within
        return self.better == "most" and self.ratio > 1 + within


def compared(before: Sequence[Figures], now: Sequence[Figures]) -> list[Comparison]:
    """The figures that both have, by name, and in every round."""
    comparisons = []
    for figure in now[0]:
        old, new = (_values(rounds, figure["name"]) for rounds in (before, now))
        if None not in (*old, *new):
            better = (figure["target"] or {}).get("at", "")
            comparisons.append(Comparison(figure["name"], figure["unit"], better, old, new))
    return comparisons


def _values(rounds: Sequence[Figures], name: str) -> tuple[Any, ...]:
    """The value of a figure in each round; None where it is missing."""
    return tuple(next((each["value"] for each in figures if each["name"] == name), None) for figures in rounds)


def run(root: Path, name: str, *, quick: bool) -> Figures:
    """The figures of one run of the checkout's own benchmark, with the packages of this interpreter."""
    command = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]["motet"]
    module, function = command.split(":")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        arguments = ["motet", "bench", name, "--json", str(file), *(["--quick"] if quick else [])]
        program = f"import sys; sys.argv = {arguments!r}; from {module} import {function}; {function}()"
        environment = {**os.environ, "PYTHONPATH": str(root)}
        subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, check=False, stdout=sys.stderr)
        figures: Figures = json.loads(file.read_text())["figures"]
        return figures


def main() -> int:
    """Prints the table as Markdown; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the earlier commit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--within", type=float, default=3.0, help="percent")
    parser.add_argument("--full", action="store_true", help="without --quick")
    given = parser.parse_args()
    before, now = [], []
    for _ in range(given.rounds):
        before.append(run(given.before.resolve(), given.name, quick=not given.full))
        now.append(run(ROOT, given.name, quick=not given.full))
    comparisons = compared(before, now)
    print("| figure | unit | before | now | ratio | spread | |\n| --- | --- | --- | --- | --- | --- | --- |")
    for each in comparisons:
        worse = "worse" if each.is_worse(given.within / 100) else ""
        values = f"{median(each.before):,.4g} | {median(each.now):,.4g} | {each.ratio:.3f} | {each.spread:.0%}"
        print(f"| {each.name} | {each.unit} | {values} | {worse} |")
    return int(any(each.is_worse(given.within / 100) for each in comparisons))


if __name__ == "__main__":
    raise SystemExit(main())
