"""The view of `motet top` in a terminal. The narrower it is, the fewer columns there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from serve_app.cli.top_view import PlacementView, ServiceView

STATE_STYLES = {"ready": "green", "asleep": "dim", "away": "bold red", "not ready": "bold red", "draining": "yellow"}
NOTHING = "-"


@dataclass(frozen=True, slots=True)
class TopColumn:
    """A column: its title, what it shows of a placement, and its width with the gap before it."""

    title: str
    cell: Callable[[PlacementView, ServiceView], str | Text]
    width: int


def _number(value: float | None, unit: str = "", digits: int = 0) -> str:
    return NOTHING if value is None else f"{value:,.{digits}f}{unit}"


def _first(value: float | None, view: ServiceView, placement: PlacementView) -> Text:
    late = value is not None and placement.task == "speech" and value > view.alarm_ms
    return Text(_number(value), style="bold red" if late else "")


def _batch(placement: PlacementView) -> str:
    return f"{_number(placement.mean_batch, digits=1)}/{placement.most_batch}"


def _errors(placement: PlacementView) -> Text:
    return Text(_number(placement.failed), style="bold red" if placement.failed else "")


COLUMNS: Sequence[TopColumn] = (
    TopColumn("placement", lambda p, _: p.name, 24),
    TopColumn("state", lambda p, _: Text(p.state, STATE_STYLES.get(p.state, "")), 8),
    TopColumn("open", lambda p, _: f"{p.open_requests}", 6),
    TopColumn("p50 ms", lambda p, v: _first(p.first_p50_ms, v, p), 8),
    TopColumn("p95 ms", lambda p, v: _first(p.first_p95_ms, v, p), 8),
    TopColumn("failed", lambda p, _: _errors(p), 8),
    TopColumn("batch", lambda p, _: _batch(p), 8),
    TopColumn("queue s", lambda p, _: _number(p.queued_seconds, digits=1), 9),
    TopColumn("CPU %", lambda p, _: _number(p.cpu_percent), 7),
    TopColumn("MB", lambda p, _: _number(None if p.memory_bytes is None else p.memory_bytes / 1e6), 8),
    TopColumn("refused", lambda p, _: f"{p.refused}", 9),
    TopColumn("busy %", lambda p, _: _number(None if p.busy_share is None else p.busy_share * 100), 8),
    TopColumn("replicas", lambda p, _: _number(p.replicas), 10),
    TopColumn("speed", lambda p, _: _number(p.speed, "x", 1), 8),
    TopColumn("task", lambda p, _: p.task, 15),
)
"""The most important first."""
SHOWN_IN_ORDER = ("placement", "task", "state", "replicas", "open", "queue s", "batch", "busy %", "speed", "p50 ms",
                  "p95 ms", "CPU %", "MB", "refused", "failed")  # fmt: skip


def columns_for(width: int) -> list[TopColumn]:
    """The columns that fit, in the order in which they are shown; at least the first three."""
    chosen, used = [], 0
    for number, column in enumerate(COLUMNS):
        used += column.width
        if used > width and number >= 3:
            break
        chosen.append(column)
    return sorted(chosen, key=lambda column: SHOWN_IN_ORDER.index(column.title))


def screen(view: ServiceView, url: str, width: int) -> RenderableType:
    """All of it, for a terminal of this width."""
    return Group(_head(view, url), Text(), _table(view, width), *_causes(view), Text(), *_rest(view))


def unreachable(url: str, message: str) -> RenderableType:
    """While a service that answered before does not."""
    return Group(Text(url, style="bold"), Text(), Text(message, style="bold red"), Text("Asking again.", style="dim"))


def _head(view: ServiceView, url: str) -> Text:
    return Text.assemble((url, "bold"), "  ", (view.status, STATE_STYLES.get(view.status, "")))


def _table(view: ServiceView, width: int) -> Table:
    columns = columns_for(width)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        left = column.title in ("placement", "state", "task")
        table.add_column(column.title, justify="left" if left else "right", no_wrap=True, overflow="ellipsis")
    for placement in view.placements:
        table.add_row(*(column.cell(placement, view) for column in columns))
    return table


def _causes(view: ServiceView) -> list[RenderableType]:
    return [Text(f"{each.name}: {each.cause}", style="red") for each in view.placements if each.cause]


def _rest(view: ServiceView) -> list[RenderableType]:
    lines = [f"speech now: {view.streams} streams{_buffers(view)}"]
    if view.jobs:
        lines.append(f"jobs: {_counted(view.jobs)}")
    if view.failures:
        lines.append(f"failures since the start: {_counted(view.failures)}")
    if not view.metrics:
        lines.append("No metrics: replicas, CPU and failures are not known. Name their address with --metrics.")
    return [Text(line) for line in lines]


def _buffers(view: ServiceView) -> str:
    if view.least_buffered_s is None or view.median_buffered_s is None:
        return ""
    return f", ahead of playback {view.least_buffered_s:.1f} s at least, {view.median_buffered_s:.1f} s in the middle"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[name]} {name.replace('_', ' ')}" for name in sorted(counts))
