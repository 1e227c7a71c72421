"""The curve: how late text is with 1 to 16 sessions, with shared batches and with each session heard by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serve_app.bench.frame import Figure, Sheet, at_least, at_most
from serve_app.bench.live_dictation import SILENCE_MS
from serve_app.bench.live_points import FINAL_S, PARTIAL_S, Point, Stage, most_that_hold, next_count
from serve_app.bench.live_service import alone

MORE = (24, 32)
"""Sessions that are tried if all of the curve hold."""
GAIN = 3.0
PARTIAL, FINAL = "{}, {} sessions, text behind the speech, p95", "{}, {} sessions, final text after the turn, p95"
CPU, ERRORS = "{}, {} sessions, CPU", "{}, {} sessions, word errors"
MOST, MOST_ALONE = "{}, most sessions within both targets", "{}, the same, each heard by itself"
RATIO = "{}, sessions over those heard by themselves"
WORSE = "{}, word errors above those of the offline text"


def figures(models: Sequence[str], counts: Sequence[int], *, compared: bool) -> list[Figure]:
    """What is measured. Without `compared`, one count is measured, and must hold."""
    wanted = list[Figure]()
    for model in models:
        for count in counts:
            limits = (None, None) if compared else (at_most(PARTIAL_S), at_most(FINAL_S * 1000))
            wanted.append(Figure(PARTIAL.format(model, count), "s", limits[0]))
            wanted.append(Figure(FINAL.format(model, count), "ms", limits[1]))
            wanted.append(Figure(CPU.format(model, count), "cores"))
            wanted.append(Figure(ERRORS.format(model, count), "%"))
        wanted.append(Figure(WORSE.format(model), "points", at_most(1.0)))
        if compared:
            wanted.append(Figure(MOST.format(model), "sessions"))
            wanted.append(Figure(MOST_ALONE.format(model), "sessions"))
            wanted.append(Figure(RATIO.format(model), "x", at_least(GAIN)))
    return wanted


def measure_curve(
    sheet: Sheet, stage: Stage, model: str, counts: Sequence[int], *, compared: bool
) -> Mapping[int, Point]:
    """Fills the figures of a model in, and gives its points with shared batches.

    By turns: a point with shared batches, and one with each session by itself, as long as those hold. Then the most that hold
    are found between the counts.
    """
    shared, single, grid = dict[int, Point](), dict[int, Point](), (*counts, *MORE)
    for count in counts:
        _measure(sheet, stage, model, model, count, shared)
        if count in shared:
            _put(sheet, model, shared[count])
        if compared and next_count(single, grid) == count:
            _measure(sheet, stage, alone(model), model, count, single)
    if compared:
        for name, points in ((model, shared), (alone(model), single)):
            while (more := next_count(points, grid)) is not None:
                _measure(sheet, stage, name, model, more, points)
                if more not in points:
                    break
    _sum_up(sheet, model, shared, single, compared=compared)
    return shared


def _measure(sheet: Sheet, stage: Stage, name: str, model: str, count: int, points: dict[int, Point]) -> None:
    with sheet.measuring(f"{name}, {count} sessions"):
        points[count] = stage.measure(name, model, count)


def _put(sheet: Sheet, model: str, point: Point) -> None:
    count = point.sessions
    failed = f"; {len(point.failed)} refused or failed, such as: {point.failed[0][:100]}" if point.failed else ""
    committed = "committed {:.2f} and {:.2f} s".format(*point.committed)
    seen = f"p50 {point.partials[0]:.2f} s; {committed}; {point.shown} of {point.words} words"
    sheet.put(PARTIAL.format(model, count), point.partials[1], seen + failed)
    turns = (
        f"p50 {point.finals[0] * 1000:.0f} ms; {point.turns} turns, {SILENCE_MS} ms of silence; {point.missing} without"
    )
    sheet.put(FINAL.format(model, count), point.finals[1] * 1000, turns)
    client = f"the client {point.client_cores:.2f}, its messages late by {point.late_p95_s * 1000:.0f} ms (p95)"
    sheet.put(CPU.format(model, count), point.service_cores, client)
    sheet.put(ERRORS.format(model, count), point.live_errors, f"offline {point.offline_errors:.2f} %")


def _sum_up(sheet: Sheet, model: str, shared: dict[int, Point], single: dict[int, Point], *, compared: bool) -> None:
    held = [point for point in shared.values() if point.holds]
    counted = held or [*shared.values()]
    words = sum(point.words for point in counted)
    worse = sum((point.live_errors - point.offline_errors) * point.words for point in counted) / max(words, 1)
    which = "the points within both targets" if held else "all points, since none is within both targets"
    sheet.put(WORSE.format(model), worse if words else float("nan"), f"{words} words of {which}")
    if compared:
        most, fewest = most_that_hold(shared), most_that_hold(single)
        sheet.put(MOST.format(model), most, _listed(shared))
        sheet.put(MOST_ALONE.format(model), fewest, _listed(single))
        sheet.put(RATIO.format(model), most / max(fewest, 1))


def _listed(points: dict[int, Point]) -> str:
    return "; ".join(str(points[count]) for count in sorted(points))
