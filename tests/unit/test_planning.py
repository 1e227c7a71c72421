"""The simulation of `motet plan`: against queueing theory, Ray Serve's own delays, and itself."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve import autoscaling_policy

from cluster.planning.engine_times import StepTimes
from cluster.planning.fleet import ScalingDelays
from cluster.planning.settings import EngineTimes
from deployments.errors import MotetError
from deployments.settings import PieceSettings
from serve_app.planning import bulk_share, report
from serve_app.planning.outcome import TrafficCounts, WaitHistogram
from serve_app.planning.requests import PlannedText, SpeechOutcome
from serve_app.planning.search import TRY_S, at_the_busiest_moment, find, for_streams, with_replicas
from serve_app.planning.settings import PlanSettings
from serve_app.planning.simulation import Simulation, simulate
from serve_app.planning.speech_run import pieces_of, requests_of
from serve_app.planning.traffic import share_at
from tests.unit.planning_plans import plan


def test_texts_become_pieces_and_requests_as_the_service_makes_them() -> None:
    pieces = pieces_of(600, PieceSettings())
    assert pieces == [80, *[pytest.approx(520 / 3)] * 3]
    assert pieces_of(40, PieceSettings()) == [40]
    assert requests_of([80, 60, 100, 300], 150) == [[80, 60], [100], [300]]


def test_the_time_of_a_step_grows_with_its_batch_and_its_longest_item() -> None:
    times = StepTimes(EngineTimes(step_ms={1: 100, 4: 160}, ms_per_second_of_audio=10, first_step_ms=5))
    assert times.of([1.0], first=False) == pytest.approx(0.110)
    assert times.of([1.0], first=True) == pytest.approx(0.115)
    assert times.of([1.0, 3.0], first=False) == pytest.approx(0.120 + 0.060)
    assert times.of([0.0] * 8, first=False) == pytest.approx(0.240)


def test_the_times_of_steps_are_read_from_a_benchmark(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    figures = [{"name": "step, batch 1", "value": 50.0}, {"name": "step, batch 8", "value": 80.0}]
    file.write_text(json.dumps({"figures": [*figures, {"name": "other", "value": 1.0}]}))
    assert StepTimes(EngineTimes(benchmark=str(file))).of([1.0] * 8, first=False) == pytest.approx(0.080)
    file.write_text("{}")
    with pytest.raises(MotetError, match="cannot be read"):
        StepTimes(EngineTimes(benchmark=str(file)))


@given(st.lists(st.floats(0.002, 1000.0), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_of_the_histogram_is_within_a_percent(waits: list[float], share: float) -> None:
    histogram = WaitHistogram()
    for wait_s in waits:
        histogram.add(wait_s)
    exact = sorted(waits)[math.ceil(share * len(waits)) - 1]
    assert histogram.quantile_ms(share) == pytest.approx(exact * 1000, rel=0.011)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_the_delays_are_those_of_ray_serve(wanted_and_running: list[tuple[int, int]]) -> None:
    config = SimpleNamespace(upscale_delay_s=5.0, downscale_delay_s=20.0, downscale_to_zero_delay_s=40.0)
    delays, state, target, rays = ScalingDelays(5.0, 20.0, 40.0), dict[str, Any](), 1, 1
    for number, (wanted, running) in enumerate(wanted_and_running):
        now_s = number * 2.0
        if running == 0 and wanted > 0:
            target = delays.decide(wanted, target, running, now_s)
            assert target >= wanted
            rays, state = target, {}
            delays = ScalingDelays(5.0, 20.0, 40.0)
            continue
        target = delays.decide(wanted, target, running, now_s)
        apply: Any = autoscaling_policy._apply_delay_logic
        rays, state = apply(wanted, rays, config, state, _now=now_s)
        assert target == rays


def test_a_single_server_waits_as_long_as_queueing_theory_says() -> None:
    """An M/D/1 queue: the mean wait is s * load / 2 / (1 - load)."""
    service_s, load = 0.1, 0.7
    settings = plan(
        duration_s=2000.0,
        interval_s=2000.0,
        engine={"chunk_seconds_of_audio": None},
        steps={"max_batch_size": 1, "batch_wait_ms": 0.0},
        model={"max_wait_s": 1000.0},
        placement={"max_ongoing_requests": 10_000},
        speech={"streams_at_once": load / service_s * 2.0, "text": {"mean_characters": 30, "spread": 0}},
    )
    first = simulate(settings).total.first
    mean_s = sum(count * 0.001 * 1.01 ** (position + 0.5) for position, count in first._bins.items()) / first.count
    assert mean_s == pytest.approx(service_s + service_s * load / 2 / (1 - load), rel=0.06)


def test_streams_share_steps_as_the_gate_lets_them() -> None:
    """Eight streams at once are spoken in the time of one, by steps of eight."""
    simulation = Simulation(plan(engine={"step_ms": {1: 100, 8: 100}}, traffic={}))
    simulation.replay("eight", [(1.0, PlannedText("voice", 60.0, 15.0))] * 8)
    result = simulation.run()
    assert result.total.complete == 8
    replica = simulation.placed["voice"][0].running[0]
    assert replica.busy_s == pytest.approx(0.1 * 9)  # the first goes alone, and the others wait for it


def test_the_same_seed_gives_the_same_result() -> None:
    settings = plan(speech={"streams_at_once": 8.0, "retries": 2}, machines={"cpu": {"lost_per_hour": 20}})
    one, other = (report.as_json(simulate(settings), settings, {}) for _ in range(2))
    assert one == other
    third = settings.model_copy(update={"seed": 2})
    assert report.as_json(simulate(third), third, {})["traffic_of_one_cell"] != one["traffic_of_one_cell"]


def test_overload_is_refused_and_underruns_are_counted() -> None:
    result = simulate(plan(speech={"streams_at_once": 40.0}, model={"max_wait_s": 1.0}))
    assert result.total.refused > 0
    total = result.total
    assert total.complete + total.refused + total.failed + result.points[-1].open_streams == pytest.approx(
        total.asked, abs=200
    )


def test_machines_start_in_parts_and_are_paid_from_their_request() -> None:
    machines = {"cpu": {"price_per_hour": 3.6, "provision_s": 60, "image_s": 30, "join_s": 10, "idle_s": 50}}
    placement = {"autoscaling": {"min_replicas": 0, "max_replicas": 1, "zero_after_s": 30}, "load_s": 20.0}
    simulation = Simulation(plan(machines=machines, placement=placement, traffic={}, interval_s=10.0))
    simulation.replay("one", [(5.0, PlannedText("voice", 30.0, 15.0))])
    result = simulation.run()
    assert result.total.complete == 1
    first_ms = result.total.first.quantile_ms(0.5)
    assert first_ms is not None and 120_000 < first_ms < 126_000
    assert result.points[-1].machines == {"cpu": 0}
    assert 0.18 < result.cost < 0.25  # 120 s to start, 30 s until it is not wanted, 50 s until it is given back


def test_a_lost_zone_breaks_its_streams_and_others_take_over() -> None:
    machines = {"cpu": {"zones": 2, "most": 2}}
    settings = plan(
        machines=machines,
        placement={"replicas": 2},
        speech={"streams_at_once": 4.0, "pacing": "played", "retries": 5},
        zone_losses=[{"at_s": 200, "machines": "cpu", "zone": 0, "lasts_s": 1000}],
    )
    result = simulate(settings)
    assert result.total.failed > 0
    assert [point.replicas["voice@cpu"] for point in result.points][2:5] == [2, 1, 1]
    assert result.total.complete > 50


@pytest.mark.parametrize("at_once", [1, 64])
def test_requests_fail_when_the_last_replica_is_gone_and_none_comes(at_once: int) -> None:
    """Those that waited for the replica, and those that come later."""
    settings = plan(
        placement={"max_ongoing_requests": at_once},
        speech={"streams_at_once": 4.0},
        machines={"cpu": {"most": 1}},
        zone_losses=[{"at_s": 200, "machines": "cpu", "lasts_s": 1000}],
    )
    result = simulate(settings)
    assert result.points[-1].open_streams < 6  # those of the last restart_wait_s
    patient = settings.rules.spillover.model_copy(update={"restart_wait_s": 1000.0})
    waiting = settings.model_copy(update={"rules": settings.rules.model_copy(update={"spillover": patient})})
    assert simulate(waiting).points[-1].open_streams > 10


def test_conversations_and_recordings_share_the_fleet() -> None:
    ear = {"task": "transcription", "placements": [{"machines": "cpu", "engine": {"step_ms": {1: 300, 16: 900}}}]}
    voice = {"placements": [{"machines": "cpu", "engine": {"step_ms": {1: 50}, "chunk_seconds_of_audio": 0.5}}]}
    settings = PlanSettings.model_validate(
        {
            "duration_s": 600,
            "traffic": {
                "live": [{"sessions_at_once": 3, "speaks_with": "voice", "hears_with": "ear"}],
                "recordings": [{"model": "ear", "per_hour": 30, "minutes": 5}],
            },
            "models": {"voice": voice, "ear": ear},
            "machines": {"cpu": {"replicas_each": 2}},
        }
    )
    result = simulate(settings)
    assert result.traffic["live voice"].complete > 20
    assert result.traffic["recordings ear"].complete > 2
    assert not result.total.failed


def test_a_bulk_job_gets_the_machines_of_its_deadline() -> None:
    bulk = [{"model": "voice", "machines": "cpu", "hours_of_audio": 100, "deadline_hours": 4}]
    settings = plan(
        traffic={"bulk": bulk},
        engine={"step_ms": {8: 400}},
        machines={"cpu": {"price_per_hour": 1.0, "provision_s": 3600, "image_s": 0, "join_s": 0}},
        placement={"load_s": 0.0},
    )
    needed = bulk_share.needs(settings, settings.traffic.bulk[0])
    assert bulk_share.speed(settings, settings.traffic.bulk[0]) == pytest.approx(10.0)
    assert needed.machines == 4  # 100 h at 10 h an hour, in three hours
    result = simulate(settings)
    assert result.bulk == {"bulk 1 voice": needed}
    assert result.cost == pytest.approx(settings.duration_s / 3600)  # the service alone
    assert "bulk 1 voice: 4 of the class cpu for 3.5 h, $14.00" in report.in_text(result, settings)


def test_bulk_jobs_together_need_no_more_machines_than_there_are() -> None:
    job = {"model": "voice", "machines": "cpu", "hours_of_audio": 100, "deadline_hours": 4}
    settings = plan(traffic={"bulk": [job, job]}, engine={"step_ms": {8: 400}}, machines={"cpu": {"most": 5}})
    assert bulk_share.needs(settings, settings.traffic.bulk[0]).machines == 3
    with pytest.raises(MotetError, match="need 6 machines of the class 'cpu', which has at most 5"):
        simulate(settings)


@pytest.mark.parametrize(
    ("cells", "bulk", "most", "used"), [(1, 0, 2, None), (2, 0, 3, 4), (1, 1, 3, None), (1, 2, 3, 4), (2, 1, 5, None)]
)
def test_a_report_says_if_cells_or_bulk_jobs_need_more_machines_than_there_are(
    cells: int, bulk: int, most: int, used: int | None
) -> None:
    job = {"model": "voice", "machines": "cpu", "hours_of_audio": 1, "deadline_hours": 4}
    settings = plan(
        cells=cells,
        duration_s=60.0,
        traffic={"bulk": [job] * bulk},
        machines={"cpu": {"most": most}},
        placement={"replicas": 2 if cells == 1 else 3},
    )
    text = report.in_text(simulate(settings), settings)
    assert ("more than its most" in text) == (used is not None)
    assert used is None or f"cpu: {used} machines at once" in text


def test_the_cost_of_an_hour_of_audio_is_of_the_time_after_the_warm_up() -> None:
    speech = {"streams_at_once": 4.0, "arrivals": "steady", "text": {"spread": 0}}
    costs = [
        simulate(plan(speech=speech, machines={"cpu": {"price_per_hour": 1.0}}, warm_up_s=warm_up_s))
        for warm_up_s in (0.0, 300.0)
    ]
    whole, half = (result.cost_per_hour_of_audio for result in costs)
    assert half == pytest.approx(whole, rel=0.03)
    assert costs[1].cost == pytest.approx(1 / 6)
    assert costs[1].counted_cost == pytest.approx(1 / 12)


def test_streams_that_fail_count_for_the_promise_as_those_with_gaps_do() -> None:
    counts = TrafficCounts()
    for status in ("complete", "complete", "complete", "failed"):
        counts.add(SpeechOutcome(PlannedText("voice", 60.0, 15.0), status, 0.1, audio_seconds=4.0))
    assert counts.gaps_percent == 25
    settings = plan(
        machines={"cpu": {"zones": 2, "most": 2}},
        placement={"replicas": 2},
        speech={"streams_at_once": 4.0, "pacing": "played"},
        zone_losses=[{"at_s": 200, "machines": "cpu", "lasts_s": 300}],
        promise={"first_sound_p95_ms": 10_000, "refused_percent": 100, "gaps_percent": 0},
    )
    result = simulate(settings)
    assert result.total.failed > 0 and result.total.good == result.total.complete
    assert not result.keeps(settings.promise)


@pytest.mark.parametrize(
    ("duration_s", "interval_s", "at_s"),
    [(60.0, 20.0, [20, 40, 60]), (50.0, 20.0, [20, 40, 50]), (10.0, 20.0, [10]), (0.3, 0.1, [0.1, 0.2, 0.3])],
)
def test_the_last_point_of_a_plan_is_its_end(duration_s: float, interval_s: float, at_s: list[float]) -> None:
    result = simulate(plan(duration_s=duration_s, interval_s=interval_s))
    assert [point.at_s for point in result.points] == pytest.approx(at_s)


def test_a_day_curve_is_interpolated() -> None:
    assert [share_at((0.0, 1.0, 0.5), at, 10.0) for at in (0, 2.5, 5, 7.5, 10, 11)] == [0, 0.5, 1, 0.75, 0.5, 0.5]


def test_the_smallest_fleet_that_keeps_a_promise_is_found() -> None:
    settings = plan(
        speech={"streams_at_once": 30.0},
        engine={"step_ms": {1: 100, 8: 200}},
        machines={"cpu": {"price_per_hour": 2.0}},
        promise={"first_sound_p95_ms": 1000},
    )
    (best,) = find(settings, simulate)
    assert best.shape == "only cpu"
    assert best.result.keeps(settings.promise)
    replicas = best.replicas["voice@cpu"]
    assert 2 <= replicas <= 8
    assert best.cost_per_hour == pytest.approx(2.0 * replicas)
    fewer = for_streams(settings, 3)
    assert find(fewer, simulate)[0].replicas["voice@cpu"] < replicas


def test_each_model_of_a_fleet_gets_the_replicas_that_it_needs() -> None:
    """A slow voice and a fast one on the same machines."""
    settings = plan(
        speech={"streams_at_once": 12.0},
        engine={"step_ms": {1: 300, 8: 900}},
        promise={"first_sound_p95_ms": 2000, "gaps_percent": 5},
    )
    document = settings.model_dump()
    fast = {"machines": "cpu", "engine": {"step_ms": {1: 10}, "chunk_seconds_of_audio": 0.64}}
    document["models"]["fast"] = {"placements": [fast]}
    document["traffic"]["speech"] = [*document["traffic"]["speech"], {"model": "fast", "streams_at_once": 4}]
    (best,) = find(PlanSettings.model_validate(document), simulate)
    assert best.replicas["fast@cpu"] == 1
    assert best.replicas["voice@cpu"] > 1


def test_texts_that_are_longer_than_a_try_are_heard_to_their_end() -> None:
    """A text of 9000 characters lasts ten minutes; a try without such texts takes five."""
    settings = plan(speech={"streams_at_once": 2.0, "text": {"mean_characters": 9000, "spread": 0}})
    busiest = at_the_busiest_moment(settings)
    assert busiest.warm_up_s >= 1200
    assert busiest.duration_s - busiest.warm_up_s >= 1200
    assert at_the_busiest_moment(plan(speech={"text": {"mean_characters": 150}})).duration_s <= TRY_S


def test_a_search_ends_at_the_machines_that_there_are() -> None:
    tried: list[str] = []
    settings = plan(
        speech={"streams_at_once": 30.0},
        engine={"step_ms": {1: 1000, 8: 8000}},
        machines={"cpu": {"most": 3, "replicas_each": 2}},
        promise={"first_sound_p95_ms": 100},
    )
    assert find(settings, simulate, tried.append) == []
    assert len(tried) == 4
    assert "6 voice@cpu" in tried[-1]


def test_a_class_that_a_fleet_does_not_use_costs_nothing() -> None:
    settings = PlanSettings.model_validate(
        plan(engine={"step_ms": {1: 50}}, promise={"first_sound_p95_ms": 1000}).model_dump()
        | {"machines": {"cpu": {"price_per_hour": 1.0}, "spare": {"price_per_hour": 5.0, "least": 3}}}
    )
    fixed = with_replicas(settings, {("voice", "cpu"): 1})
    assert fixed.machines["spare"].least == 0


LIVE = {"sessions_at_once": 1, "speaks_with": "voice"}


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        ({"speech": {"model": "other"}}, "there is no model 'other'"),
        ({"placement": {"machines": "gpu"}}, "there are no machines 'gpu'"),
        ({"placement": {"replicas": 1, "autoscaling": {}}}, "exclude each other"),
        ({"interval_s": 0.001}, "more than 10000 times"),
        ({"model": {"task": "transcription"}}, "does transcription, not speech"),
        ({"nonsense": 1}, "Extra inputs"),
        ({"speech": {"text": {"mean_characters": 0.001}}}, "greater than or equal to 2"),
        ({"traffic": {"live": [LIVE | {"hear_every_s": 0.0001}]}}, "greater than or equal to 0.1"),
        ({"traffic": {"live": [LIVE | {"turn_s": 1e9}]}}, "less than or equal to 600"),
        ({"zone_losses": [{"at_s": 1, "machines": "cpu", "zone": 1}]}, "'cpu' has no zone 1; its zones: 0 to 0"),
        ({"zone_losses": [{"at_s": 600, "machines": "cpu"}]}, "not before duration_s, 600"),
        ({"zone_losses": [{"at_s": 1, "machines": "gpu"}]}, "there are no machines 'gpu'"),
    ],
)
def test_mistakes_of_a_plan_are_refused(changes: dict[str, Any], mistake: str) -> None:
    with pytest.raises(ValueError, match=mistake):
        plan(**changes)
