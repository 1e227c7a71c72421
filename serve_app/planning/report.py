"""A plan's result as a table, and as JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from serve_app.planning.bulk_share import BulkNeeds
from serve_app.planning.outcome import FoundFleet, PlanResult, TrafficCounts
from serve_app.planning.search import gateways_for
from serve_app.planning.settings import PlanSettings

Rows = list[tuple[str, ...]]


def in_text(result: PlanResult, settings: PlanSettings) -> str:
    """The result as plain text."""
    lines = [
        _table([TRAFFIC_HEAD, *(_traffic_row(name, counts) for name, counts in result.traffic.items())]),
        "",
        _table([FLEET_HEAD, *_fleet_rows(result)]),
        "",
        f"{_money(result.cost_per_hour)} an hour, {_money(result.cost_per_hour_of_audio)} an hour of audio, "
        f"{_money(result.cost)} for {result.hours:g} h",
        *(_bulk_line(name, needs) for name, needs in result.bulk.items()),
        _verdict(result, settings),
        *_limit_lines(result, settings),
    ]
    if result.unmeasured:
        lines.append(_unmeasured_line(result.unmeasured))
    if result.cells > 1:
        lines.append(f"One of {result.cells} equal cells was simulated.")
    return "\n".join(lines)


TRAFFIC_HEAD = ("traffic", "asked", "heard", "without a gap", "refused", "failed", "first sound p50", "p95", "p99 (ms)")
FLEET_HEAD = ("placement or machines", "at the first point", "most", "at the end", "engines busy")


def _traffic_row(name: str, counts: TrafficCounts) -> tuple[str, ...]:
    quantiles = (counts.first.quantile_ms(share) for share in (0.5, 0.95, 0.99))
    good = f"{100 - counts.gaps_percent:.1f} %" if counts.complete + counts.failed else "-"
    refused = f"{counts.refused_percent:.1f} %"
    firsts = ("-" if each is None else f"{each:,.0f}" for each in quantiles)
    return (name, f"{counts.asked:,}", f"{counts.complete:,}", good, refused, f"{counts.failed:,}", *firsts)


def _fleet_rows(result: PlanResult) -> Rows:
    points = result.points
    if not points:
        return []
    rows: Rows = [
        (
            name,
            str(points[0].replicas[name]),
            str(result.most_replicas(name)),
            str(points[-1].replicas[name]),
            f"{busy:.0f} %",
        )
        for name, busy in result.busy_percent.items()
    ]
    for kind in points[0].machines:
        each = (points[0].machines[kind], result.most_machines[kind], points[-1].machines[kind])
        rows.append((kind, *map(str, each), ""))
    return rows


def fleets_in_text(found: Sequence[FoundFleet], settings: PlanSettings) -> str:
    """Fleets that keep a promise, the cheapest first, and where their prices are from."""
    rows = [("fleet", *FLEET_FIGURES), *((each.shape, *_figures_of(each)) for each in found)]
    return "\n".join([_table(rows), "", *_origin_lines(settings)])


def sizes_in_text(rows: Sequence[tuple[int, Sequence[FoundFleet]]], settings: PlanSettings) -> str:
    """The cheapest fleet for each number of streams, and where its prices are from."""
    none = ("none keeps the promise", *["-"] * len(FLEET_FIGURES))
    table = [
        (f"{size:,}", *((found[0].shape, *_figures_of(found[0])) if found else none), f"{gateways_for(size):,}")
        for size, found in rows
    ]
    head = ("streams at once", "fleet", *FLEET_FIGURES, "gateways")
    return "\n".join([_table([head, *table]), "", *_origin_lines(settings)])


def cards_in_text(cards: Mapping[str, Mapping[str, Any]]) -> str:
    """Usual machines with their prices and sources."""
    head = ("card", "$ an hour", "starts in", "price from")
    rows = [
        (
            name,
            f"{card['price_per_hour']:.3f}",
            f"{card['provision_s'] + card['image_s']} s",
            card["source"],
        )
        for name, card in cards.items()
    ]
    return f"{_table([head, *rows], numbers=(1, 2))}\n\nMotet was measured on none of them."


FLEET_FIGURES = (
    "replicas",
    "machines",
    "cost an hour",
    "an hour of audio",
    "first sound p95",
    "refused",
    "with a gap or failed",
)


def _figures_of(fleet: FoundFleet) -> tuple[str, ...]:
    total = fleet.result.total
    first_ms = total.first.quantile_ms(0.95)
    return (
        _counts(fleet.replicas),
        _counts(fleet.machines),
        _money(fleet.cost_per_hour),
        _money(fleet.result.cost_per_hour_of_audio),
        f"{first_ms or 0:,.0f} ms",
        f"{total.refused_percent:.2f} %",
        f"{total.gaps_percent:.2f} %",
    )


def _counts(counts: Mapping[str, int]) -> str:
    return " + ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def _origin_lines(settings: PlanSettings) -> list[str]:
    """Where the price of each class is from, and of which classes no engine was measured."""
    lines = [
        f"{kind}: ${each.price_per_hour:g} an hour. {each.source}"
        for kind, each in settings.machines.items()
        if each.source
    ]
    unmeasured = [kind for kind, each in settings.machines.items() if not each.measured]
    return [*lines, *([_unmeasured_line(unmeasured)] if unmeasured else [])]


def _unmeasured_line(kinds: Sequence[str]) -> str:
    return f"Engine figures never measured by us: {', '.join(kinds)}."


def _bulk_line(name: str, needs: BulkNeeds) -> str:
    machines = f"{needs.machines:,} of the class {needs.kind} for {needs.hours:,.1f} h"
    return f"{name}: {machines}, {_money(needs.cost)}, which is not in the cost above"


def _limit_lines(result: PlanResult, settings: PlanSettings) -> list[str]:
    """Classes of which the plan uses more machines than there are: cells round up, and bulk jobs come on top."""
    used = {kind: (result.most_with_bulk(kind), each.most) for kind, each in settings.machines.items()}
    return [
        f"{kind}: {count:,} machines at once, with bulk jobs and each cell rounded up, are more than its most, {most:,}."
        for kind, (count, most) in used.items()
        if count > most
    ]


def _verdict(result: PlanResult, settings: PlanSettings) -> str:
    promise, total = settings.promise, result.total
    first_ms = total.first.quantile_ms(0.95)
    verb = "is kept" if result.keeps(promise) else "is broken"
    found = "no sound" if first_ms is None else f"first sound p95 {first_ms:,.0f} ms"
    shares = f"{total.refused_percent:.2f} % refused, {total.gaps_percent:.2f} % with a gap or failed"
    limits = f"{promise.first_sound_p95_ms:,.0f} ms, {promise.refused_percent:g} % and {promise.gaps_percent:g} %"
    return f"The promise {verb}: {found}, {shares}; at most {limits}."


def as_json(result: PlanResult, settings: PlanSettings, facts: Mapping[str, object]) -> dict[str, Any]:
    """The result as JSON values. `facts` say what made it."""
    traffic = {
        name: {
            "asked": counts.asked,
            "attempts": counts.attempts,
            "complete": counts.complete,
            "good": counts.good,
            "refused": counts.refused,
            "refused_percent": counts.refused_percent,
            "failed": counts.failed,
            "gaps_percent": counts.gaps_percent,
            "underruns": counts.underruns,
            "audio_hours": counts.audio_seconds / 3600,
            **{f"first_sound_p{share}_ms": counts.first.quantile_ms(share / 100) for share in (50, 95, 99)},
        }
        for name, counts in {**result.traffic, "total": result.total}.items()
    }
    return {
        "facts": dict(facts),
        "traffic_of_one_cell": traffic,
        "cells": result.cells,
        "cost": result.cost,
        "cost_per_hour": result.cost_per_hour,
        "cost_per_hour_of_audio": result.cost_per_hour_of_audio,
        "bulk": {name: asdict(needs) for name, needs in result.bulk.items()},
        "over_most": _limit_lines(result, settings),
        "promise_kept": result.keeps(settings.promise),
        "engines_busy_percent": dict(result.busy_percent),
        "never_measured": list(result.unmeasured),
        "points": [asdict(point) for point in result.points],
        "settings": settings.model_dump(mode="json"),
    }


def fleets_as_json(found: Sequence[FoundFleet], settings: PlanSettings, facts: Mapping[str, object]) -> dict[str, Any]:
    """Fleets that keep a promise, the cheapest first, as JSON values. `facts` say what made them."""
    return {
        "facts": dict(facts),
        "fleets": [_fleet_as_json(each) for each in found],
        "settings": settings.model_dump(mode="json"),
    }


def sizes_as_json(
    rows: Sequence[tuple[int, Sequence[FoundFleet]]], settings: PlanSettings, facts: Mapping[str, object]
) -> dict[str, Any]:
    """The fleets for each number of streams, the cheapest first, as JSON values. `facts` say what made them."""
    sizes = [
        {
            "streams_at_once": size,
            "gateways": gateways_for(size),
            "fleets": [_fleet_as_json(each) for each in found],
        }
        for size, found in rows
    ]
    return {"facts": dict(facts), "sizes": sizes, "settings": settings.model_dump(mode="json")}


def _fleet_as_json(fleet: FoundFleet) -> dict[str, Any]:
    total = fleet.result.total
    return {
        "fleet": fleet.shape,
        "replicas": dict(fleet.replicas),
        "machines": dict(fleet.machines),
        "cost_per_hour": fleet.cost_per_hour,
        "cost_per_hour_of_audio": fleet.result.cost_per_hour_of_audio,
        "first_sound_p95_ms": total.first.quantile_ms(0.95),
        "refused_percent": total.refused_percent,
        "gaps_percent": total.gaps_percent,
    }


def _money(amount: float | None) -> str:
    return "-" if amount is None else f"${amount:,.4f}" if amount < 1 else f"${amount:,.2f}"


def _table(rows: Rows, numbers: Sequence[int] | None = None) -> str:
    """Columns of text; those of `numbers`, without it all but the first, end at the same place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    right = range(1, len(widths)) if numbers is None else numbers
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
