"""Bulk jobs: the throughput of Ray Data beside the bare engine, and the output of jobs that are killed.

Throughput is compared round by round: bare processes with one engine each, and a job with as many workers, on the same
cores and with the same niceness, after both have warmed up. The kills are seeded and hit real `motet bulk` programs at
every stage. Their output is compared, byte by byte, with that of the same job in one process without a cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.bench.bulk_kills import figures, measure_kills
from serve_app.bench.bulk_throughput import FIGURES, measure_throughput
from serve_app.bench.frame import Report, Sheet, carry_out


@dataclass(frozen=True, slots=True)
class BulkPlan:
    """How much is measured."""

    rounds: int
    measured_s: float
    rows: int
    kills: int


QUICK = BulkPlan(rounds=1, measured_s=3.0, rows=24, kills=2)
FULL = BulkPlan(rounds=7, measured_s=10.0, rows=320, kills=20)


def run(quick: bool) -> Report:
    """Measures the throughput, and what kills leave; `quick` takes fewer rounds and kills."""
    plan = QUICK if quick else FULL

    def measure(sheet: Sheet) -> None:
        with sheet.measuring("throughput"):
            measure_throughput(sheet, plan.rounds, plan.measured_s)
        with sheet.measuring(f"{plan.kills} kills"):
            measure_kills(sheet, plan.rows, plan.kills)

    return carry_out("bulk", (*FIGURES, *figures(plan.kills)), measure, quick=quick)
