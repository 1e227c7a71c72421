"""`python -m serve_app.bench NAME` does what `motet bench NAME` does, without the packages of the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from serve_app.bench.catalogue import BENCHMARKS, run


def main() -> int:
    """Runs a benchmark; returns the exit status, 1 when a target is not met."""
    parser = argparse.ArgumentParser(prog="python -m serve_app.bench", description=__doc__)
    parser.add_argument("name", choices=sorted(BENCHMARKS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE", dest="json_file")
    parser.add_argument("--model", help="voices: which model")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="voices: where it runs")
    parser.add_argument("--streams", type=_counts, help="voices: how many at once, such as 1,8,32")
    given = vars(parser.parse_args())
    name, quick, json_file = given.pop("name"), given.pop("quick"), given.pop("json_file")
    options = {option: value for option, value in given.items() if value is not None}
    return run(name, quick=quick, json_file=json_file, **options)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(count) for count in text.split(","))


if __name__ == "__main__":
    raise SystemExit(main())
