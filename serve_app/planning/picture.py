"""The curves of a plan as a picture. Needs matplotlib."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from deployments.errors import fail
from serve_app.planning.outcome import PlanResult


def draw(result: PlanResult, file: Path, title: str) -> None:
    """Writes the picture. Raises `MotetError` (unavailable) without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        raise fail("unavailable", "matplotlib is not installed.", "Run: pip install 'motet[bench]'.")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    hours = [point.at_s / 3600 for point in result.points]
    figure, (streams, first, fleet, cost) = pyplot.subplots(4, 1, sharex=True, figsize=(8, 10))
    streams.plot(hours, [point.open_streams for point in result.points], label="open requests")
    streams.plot(hours, [point.refused for point in result.points], "--", label="refused in the interval")
    streams.set_title(title)
    first.plot(hours, [point.first_p95_ms or float("nan") for point in result.points], label="first sound p95, ms")
    for name in result.busy_percent:
        fleet.step(hours, [point.replicas[name] for point in result.points], where="post", label=name)
    cost.plot(hours, [point.cost_per_hour for point in result.points], label="cost of an hour, $")
    cost.set_xlabel("hours")
    for part in (streams, first, fleet, cost):
        part.set_ylim(bottom=0)
        part.legend(loc="upper left", fontsize="small")
    figure.savefig(file, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
