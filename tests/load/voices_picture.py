"""The picture of `motet bench voices`: speed and first audio by the number of streams."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from serve_app.bench.frame import Report

if TYPE_CHECKING:
    pass


def draw(report: Report, file: Path) -> None:
    """Draws speed and first audio by the number of streams; does nothing for a report without these figures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    speeds = series_of(report, " streams", "audio s/s")
    firsts = series_of(report, " streams, first audio p95", "ms")
    if not speeds:
        return
    picture, (speed, first) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for name, points in speeds.items():
        speed.plot(*zip(*points, strict=True), "o-", label=name or "Motet")
    best = next((figure.value for figure in report.figures if figure.name == "package, best setting"), None)
    if best is not None:
        speed.axhline(best, color="gray", linestyle="--", label="the package")
    streams = [count for count, _ in next(iter(speeds.values()))]
    speed.plot(streams, streams, color="lightgray", label="real time for all")
    speed.set(xlabel="streams", ylabel="seconds of audio per second", ylim=(0, None))
    speed.legend()
    for name, points in firsts.items():
        first.plot(*zip(*points, strict=True), "o-", label=name or "Motet")
    first.set(xlabel="streams", ylabel="first audio, p95 (ms)", ylim=(0, None))
    picture.suptitle(f"motet bench {report.name}")
    picture.savefig(file, dpi=120)
    pyplot.close(picture)


def series_of(report: Report, ending: str, unit: str) -> dict[str, list[tuple[int, float]]]:
    """Figures in `unit` named `[<who>, ]<streams><ending>`: for each who, the numbers of streams and the values."""
    series: dict[str, list[tuple[int, float]]] = {}
    for figure in report.figures:
        who, _, count = figure.name.removesuffix(ending).rpartition(", ")
        fits = figure.name.endswith(ending) and figure.unit == unit and count.isdecimal()
        if fits and figure.value is not None:
            series.setdefault(who, []).append((int(count), figure.value))
    return series
