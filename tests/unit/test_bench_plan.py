"""The benchmark of `motet plan`: its service, its requests, and its predictions."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.planning.engine_times import steps_of_benchmark
from serve_app.bench import plan
from serve_app.bench.catalogue import BENCHMARKS
from serve_app.config import AppConfig

CALIBRATION = plan.Calibration({1: 100.0, 2: 100.0, 4: 100.0, 8: 100.0}, 10.0)


def test_its_service_is_valid() -> None:
    model = AppConfig.model_validate(plan._config()).models[plan.MODEL]
    assert (model.steps.max_batch_size, model.max_wait_s) == (plan.BATCH, plan.MAX_WAIT_S)
    assert BENCHMARKS["plan"].load() is plan


def test_the_requests_have_the_lengths_that_are_simulated() -> None:
    load = plan._load(1.0, CALIBRATION, 5.0)
    assert [len(ask.text) for ask in load.requests()] == list(load.characters)
    assert len({(ask.text, ask.seed) for ask in load.requests()}) == len(load.at_s)


def test_overload_is_predicted() -> None:
    loads = [plan._load(share, CALIBRATION, 5.0) for share in (0.5, 3.0)]
    usual, over = plan.predict(CALIBRATION, loads, [0.0, 20.0])
    assert usual.refused == 0
    assert usual.complete == len(loads[0].at_s)
    assert over.refused > 0.2 * len(loads[1].at_s)
    first_ms = usual.first.quantile_ms(0.5)
    assert (
        first_ms is not None and 110 <= first_ms < 220
    )  # a step and the way there, and at most the rest of another step


def test_a_plan_reads_the_steps_of_its_report(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"figures": [{"name": f"step, batch {size}", "value": 1.0} for size in plan.SIZES]}))
    assert set(steps_of_benchmark(file)) == set(plan.SIZES)
