"""What the scenarios of `motet plan` show about the service's policies. Each is made smaller, so that it takes a second or two."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from cluster import demand
from serve_app.gateway.routing import placement_queue
from serve_app.planning import bulk_share, plan_file
from serve_app.planning.outcome import PlanResult, TrafficCounts
from serve_app.planning.settings import PlanSettings
from serve_app.planning.simulation import simulate


def smaller(name: str, **changes: Any) -> PlanSettings:
    """A scenario with some of its keys replaced."""
    return PlanSettings.model_validate({**plan_file.read(name).model_dump(), **changes})


def first_p95_ms(counts: TrafficCounts) -> float:
    found = counts.first.quantile_ms(0.95)
    assert found is not None
    return found


def replicas_ended(result: PlanResult) -> int:
    """How many replicas were ended, over the whole plan."""
    counts = [sum(point.replicas.values()) for point in result.points]
    return sum(max(0, before - after) for before, after in pairwise(counts))


def test_after_the_loss_of_a_zone_its_clients_are_served_by_the_others() -> None:
    result = simulate(smaller("zone-loss", duration_s=390))
    assert result.total.failed > 0
    assert first_p95_ms(result.total) < 1000
    assert result.total.refused_percent < 5
    during = [point for point in result.points if point.at_s > 350]
    assert all(point.first_p95_ms is not None and point.first_p95_ms < 1000 for point in during)


@pytest.mark.long
def test_the_autoscaler_does_not_oscillate_under_a_steady_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """It did, when a short queue ended most replicas at once."""
    placement = plan_file.read("cold-morning").models["voice"].placements[0].model_dump()
    placement["engine"] = {"step_ms": {1: 200, 8: 320}, "chunk_seconds_of_audio": 1.28}
    settings = smaller(
        "cold-morning",
        duration_s=1200,
        traffic={"speech": [{"model": "voice", "streams_at_once": 80}]},
        models={"voice": {"placements": [placement]}},
        machines={"gpu": {"least": 12}},
    )
    steady = simulate(settings)
    monkeypatch.setattr(demand, "KEPT_SHARE", 0.0)
    before = simulate(settings)
    assert replicas_ended(before) > 2 * replicas_ended(steady)
    assert first_p95_ms(before.total) > first_p95_ms(steady.total)


def test_chapters_do_not_delay_chat() -> None:
    result = simulate(smaller("chapters-before-chat", duration_s=200))
    assert first_p95_ms(result.traffic["speech 1 voice"]) < 300
    assert result.traffic["speech 1 voice"].refused == 0


def test_many_gateways_together_admit_about_what_one_would() -> None:
    """Twenty times more is asked for than made. Each gateway has its part of the assumptions, and measures its part of the
    rest."""
    plan = plan_file.read("many-gateways")
    alone = simulate(smaller("many-gateways", gateways={"replicas": 1}))
    together = simulate(plan)
    assert first_p95_ms(together.total) < plan.promise.first_sound_p95_ms
    admitted, of_one = (each.total.asked - each.total.refused for each in (together, alone))
    assert admitted < 2.5 * of_one


def test_a_slow_class_does_not_keep_requests_from_a_fast_one() -> None:
    result = simulate(smaller("slow-class", duration_s=400))
    assert first_p95_ms(result.total) < 500
    assert result.busy_percent["voice@slow"] < 10


def test_no_class_takes_more_streams_than_it_can_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast ones did, when only the first answer counted."""
    traffic = {"speech": [{"model": "voice", "streams_at_once": 60, "text": {"mean_characters": 400}}]}
    placements = [placed.model_dump() for placed in plan_file.read("three-classes").models["voice"].placements]
    placements = [placed | {"autoscaling": None, "replicas": 1} for placed in placements]
    placements[0]["replicas"] = 3
    settings = smaller("three-classes", duration_s=900, traffic=traffic, models={"voice": {"placements": placements}})
    result = simulate(settings)
    monkeypatch.setattr(placement_queue, "SUSTAINED_SHARE", math.inf)
    before = simulate(settings)
    assert result.total.gaps_percent < before.total.gaps_percent / 2


def test_streams_of_spot_machines_that_are_taken_back_are_spoken_by_others() -> None:
    result = simulate(smaller("spot-losses", duration_s=900))
    total = result.total
    assert total.failed > 0
    assert total.refused == 0
    assert first_p95_ms(total) < 500
    assert total.gaps_percent < 1


def test_a_bulk_job_gets_the_machines_of_its_deadline_and_no_more() -> None:
    settings = plan_file.read("bulk-deadline")
    (job,) = settings.traffic.bulk
    needs = bulk_share.needs(settings, job)
    assert needs.hours <= job.deadline_hours
    start_h = needs.hours - job.hours_of_audio / (bulk_share.speed(settings, job) * needs.machines)
    fewer_h = start_h + job.hours_of_audio / (bulk_share.speed(settings, job) * (needs.machines - 1))
    assert fewer_h > job.deadline_hours


def test_a_steady_load_keeps_its_promise_while_replicas_follow_it() -> None:
    result = simulate(smaller("one-class", duration_s=600))
    assert result.keeps(plan_file.read("one-class").promise)
