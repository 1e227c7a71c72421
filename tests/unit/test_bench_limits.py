"""`motet bench limits`: its figures, its arithmetic, and the controller's work in this process."""

from __future__ import annotations

import asyncio
import time

import pytest

from cluster.autoscaling import autoscaling_config
from cluster.demand import AutoscalingSettings
from cluster.ray_private import ControllerWork
from serve_app.bench import limits, limits_controller, limits_replicas
from serve_app.bench.catalogue import BENCHMARKS
from serve_app.bench.limits_controller import ControllerCost


def test_its_figures_have_different_names() -> None:
    assert BENCHMARKS["limits"].load() is limits
    parts = (limits_controller.figures(), limits_replicas.figures((2, 6)))
    names = [figure.name for part in parts for figure in part]
    assert len(names) == len(set(names))


def test_the_share_of_the_controllers_core_is_of_reports_and_decisions() -> None:
    cost = ControllerCost(report_bytes=0, take_ms=2.0, decide_ms=0.5, list_bytes=0, spread_ms=0)
    assert cost.percent_of_core(gateways=100) == pytest.approx((100 * 2.0 / 10 + 10 * 0.5) / 10)


def work_for(replicas: int) -> ControllerWork:
    config = autoscaling_config("model", AutoscalingSettings(max_replicas=1000, up_after_s=0.0), 10.0)
    return ControllerWork(replicas, config)


def test_the_controllers_own_code_takes_reports_and_decides() -> None:
    """Gateways whose requests wait need more replicas than there are."""
    work = work_for(2)
    for gateway in range(50):
        work.take(work.report_of_gateway(gateway, time.time()))
    assert work.decide() > 2


def test_reports_and_lists_grow_with_the_replicas() -> None:
    few, many = work_for(5), work_for(50)
    assert len(many.report_of_gateway(0, time.time())) > len(few.report_of_gateway(0, time.time()))
    assert asyncio.run(many.spread_change(3)) > 5 * asyncio.run(few.spread_change(3))
