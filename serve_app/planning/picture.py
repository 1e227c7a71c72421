"""The curves of a plan as a picture. Needs matplotlib."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.errors import fail
from serve_app.planning.outcome import PlanResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = ("-", "--", ":")
"""Of the results that are compared, in their order."""


def draw(result: PlanResult, file: Path, title: str) -> None:
    """Writes the picture of one result. Raises `MotetError` (unavailable) without matplotlib."""
    file.write_bytes(png_of({title: result}))


def png_of(results: Mapping[str, PlanResult]) -> bytes:
    """The picture as a PNG file: open requests, first sound, replicas and cost over time, of one result or of up to three
    that are compared. Raises `MotetError` (unavailable) without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        raise fail("unavailable", "matplotlib is not installed.", "Run: pip install 'motet[bench]'.")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), layout="constrained")
    streams, first, fleet, cost = figure.subplots(4, 1, sharex=True)
    for (name, result), style in zip(results.items(), STYLES, strict=False):
        hours = [point.at_s / 3600 for point in result.points]
        streams.plot(hours, [point.open_streams for point in result.points], style, color="C0", label=name)
        streams.plot(hours, [point.refused for point in result.points], style, color="C3", label=f"{name}: refused")
        firsts = [point.first_p95_ms or float("nan") for point in result.points]
        first.plot(hours, firsts, style, color="C0", label=name)
        for number, placement in enumerate(result.busy_percent):
            counts = [point.replicas[placement] for point in result.points]
            fleet.step(hours, counts, style, where="post", color=f"C{number}", label=f"{name}: {placement}")
        cost.plot(hours, [point.cost_per_hour for point in result.points], style, color="C0", label=name)
    cost.set_xlabel("hours")
    titles = (
        "Open requests, and refused ones of each interval",
        "First sound, p95 in ms",
        "Replicas",
        "Cost of an hour, $",
    )
    for part, title in zip((streams, first, fleet, cost), titles, strict=True):
        _finish(part, title)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    return picture.getvalue()


def _finish(part: Axes, title: str) -> None:
    part.set_title(title, loc="left", fontsize="medium")
    part.set_ylim(bottom=0)
    part.spines[["top", "right"]].set_visible(False)
    part.grid(color="0.9")
    part.set_axisbelow(True)
    part.legend(loc="upper left", fontsize="small", frameon=False)
