"""How the service behaves with many listeners: batching, saturation, overload, clients that leave, requests that fail.

One real service runs simulated engines (50 ms a step for any batch), for what must not depend on the speed of a model, and
hibari. All requests come over HTTP from this process, to one model at a time.
"""

from __future__ import annotations

from dataclasses import replace

from serve_app.bench.all_cores import measure_cores
from serve_app.bench.frame import Report, Sheet, carry_out
from serve_app.bench.serve_hibari import ALL_CORES, figures, measure_hibari
from serve_app.bench.serve_service import ServePlan, config, service_of
from serve_app.bench.serve_simulated import FIGURES, measure_simulated

QUICK = ServePlan(1, 3, 0.6, 1, 4.0, 1.5, 10, 1.0, 1.5, 30, 2.0, 0, ())
FULL = ServePlan(3, 7, 2.0, 3, 10.0, 6.0, 60, 25.0, 6.0, 200, 6.0, 3, (0.4, 0.9, 1.5))


def run(quick: bool, compare: bool = False) -> Report:
    """Measures everything; `quick` takes fewer streams, compares the presets only with `compare`, and draws no curve."""
    plan = replace(QUICK, preset_rounds=1) if quick and compare else QUICK if quick else FULL

    def measure(sheet: Sheet) -> None:
        with sheet.measuring("all cores and one thread"):
            measure_cores(sheet, ALL_CORES, plan.core_rounds, plan.core_s)
        with sheet.measuring("starting the service"), service_of(config()) as service:
            measure_simulated(sheet, plan, service)
            measure_hibari(sheet, plan, service)

    return carry_out("serve", (*FIGURES, *figures(plan)), measure, quick=quick)
