"""What many replicas cost Ray Serve's controller, of which a cluster has one, and how it grows.

The shares at 1, 10 and 100 times the size of a service are arithmetic on the measured costs: they say what would be full if
nothing else broke before. Nothing of it was run on several machines.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.bench import limits_controller, limits_replicas
from serve_app.bench.frame import Report, Sheet, carry_out


@dataclass(frozen=True, slots=True)
class LimitsPlan:
    """How much is measured: rounds of the controller's work, stub replicas, seconds at rest."""

    rounds: int
    replicas: tuple[int, ...]
    rest_s: float


QUICK = LimitsPlan(20, (2, 6), 3.0)
FULL = LimitsPlan(100, (5, 10, 20, 50), 15.0)


def run(quick: bool) -> Report:
    """Measures; `quick` takes fewer rounds and replicas."""
    plan = QUICK if quick else FULL
    wanted = [*limits_controller.figures(), *limits_replicas.figures(plan.replicas)]

    def measure(sheet: Sheet) -> None:
        limits_controller.measure_controller(sheet, plan.rounds)
        limits_replicas.measure_replicas(sheet, plan.replicas, plan.rest_s)

    return carry_out("limits", wanted, measure, quick=quick)
