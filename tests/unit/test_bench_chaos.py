"""The counts of the benchmarks with faults: chaos, separation kills, soak."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.errors import MotetError
from serve_app.bench import chaos, separation_kills, soak
from serve_app.bench.chaos import FAULTS, ChaosService, Episode
from serve_app.bench.frame import Figure, Sheet
from serve_app.bench.mixed_load import TriedRequest, troubles
from serve_app.bench.mixed_requests import Attempt, Kind
from serve_app.bench.process_growth import ProcessHistory, growth_of
from serve_app.bench.separation_kills import KillCounts
from serve_app.config import AppArguments

MB = 1e6


def tried(began_s: float, *attempts: Attempt, kind: Kind = "speech") -> TriedRequest:
    return TriedRequest(kind, began_s, list(attempts))


GOOD, REFUSED = Attempt(0.2), Attempt(0.1, "503 model_restarting", 2.0)


def test_a_request_is_answered_by_either_attempt_and_its_wait_is_that_of_the_longer_one() -> None:
    again = tried(0.0, REFUSED, Attempt(1.5))
    assert again.answered and not again.at_once and again.longest_wait_s == 1.5
    assert not tried(0.0, REFUSED, REFUSED).answered
    assert troubles([again, tried(0.0, REFUSED, REFUSED)]) == "3 x speech: 503 model_restarting"


def put(episodes: list[Episode], asked: list[TriedRequest]) -> Sheet:
    service = ChaosService(0, tuple(FAULTS))
    sheet = Sheet(chaos.figures(service), lambda _: None)
    chaos.put_requests(sheet, service, asked, episodes, began_s=0.0)
    return sheet


def test_each_fault_has_the_longest_wait_of_its_requests_and_failed_ones_count() -> None:
    kill, disk = FAULTS["kill-speech"], FAULTS["disk"]
    episodes = [Episode(kill, 10.0, True), Episode(disk, 20.0, False)]
    calm = tried(1.0, GOOD)
    cut = tried(9.0, Attempt(3.0, "ReadError"), GOOD)  # under way at the kill
    late = tried(15.0, Attempt(1.0, "503"), Attempt(4.0))
    full = tried(21.0, Attempt(0.1, "507 storage_full"), Attempt(0.1, "507 storage_full"), kind="job")
    lost = tried(22.0, REFUSED, REFUSED)
    sheet = put(episodes, [calm, cut, late, full, lost])
    service = ChaosService(0, ())
    assert sheet.value(service.figure("undisturbed, longest wait")) == 0.2
    assert sheet.value(service.figure(kill.name)) == 4.0
    assert sheet.value(service.figure(disk.name)) == 0.1
    assert sheet.value(service.figure(chaos.REQUESTS)) == 5
    assert sheet.value(service.figure(chaos.ANSWERED)) == 75.0  # a job cannot be kept while the disk is full
    assert sheet.value(service.figure(chaos.WEDGED)) == 1


def test_a_request_belongs_to_the_fault_that_its_first_attempt_met() -> None:
    kill, stop = FAULTS["kill-speech"], FAULTS["stop-speech"]
    episodes = [Episode(kill, 10.0, True), Episode(stop, 20.0, True)]
    retried = tried(15.0, REFUSED, Attempt(15.0))  # its second attempt meets the next fault, too
    hanging = tried(19.0, Attempt(12.0))
    sheet = put(episodes, [tried(1.0, GOOD), retried, hanging])
    service = ChaosService(0, ())
    assert sheet.value(service.figure(kill.name)) == 15.0
    assert sheet.value(service.figure(stop.name)) == 12.0


def test_a_job_that_was_made_twice_does_not_stand_for_one_that_was_lost() -> None:
    service = ChaosService(0, ())
    sheet = Sheet(chaos.figures(service), lambda _: None)
    chaos.put_jobs(sheet, service, {"a": {"1", "2"}, "b": {"3"}, "c": {"4"}}, done={"1", "2", "4"})
    assert (sheet.value(service.figure(chaos.LOST)), sheet.value(service.figure(chaos.TWICE))) == (1, 1)


def kills(killed: KillCounts, calm: int, computed: int) -> dict[str, Figure]:
    plan = replace(separation_kills.QUICK, seconds=73.0)  # ten chunks
    sheet = Sheet(separation_kills.figures(plan), lambda _: None)
    separation_kills.put_counts(sheet, plan, killed, calm, computed)
    return {figure.name: figure for figure in sheet.figures}


def test_chunks_that_kills_explain_are_no_waste() -> None:
    found = kills(KillCounts(separators=1, gateways=1), calm=10, computed=19)
    assert (found[separation_kills.AGAIN].value, found[separation_kills.CALM].value) == (100.0, 100.0)
    assert found[separation_kills.CALM].verdict == found[separation_kills.AGAIN].verdict == "met"
    assert kills(KillCounts(1, 1), calm=10, computed=20)[separation_kills.AGAIN].verdict == "not met"


@pytest.mark.parametrize("calm", [0, 9, 11])
def test_a_count_of_chunks_that_is_wrong_without_kills_meets_no_target(calm: int) -> None:
    assert kills(KillCounts(1, 1), calm, 10)[separation_kills.CALM].verdict == "not met"


def test_without_a_kill_the_other_figures_are_there() -> None:
    found = kills(KillCounts(), calm=10, computed=10)
    assert found[separation_kills.AGAIN].verdict == found[separation_kills.KILLS].verdict == "not met"
    assert found[separation_kills.CALM].verdict == "met"


def test_the_services_of_the_benchmarks_are_valid(tmp_path: Path) -> None:
    for spare in (0, 1):
        config = AppArguments.model_validate(chaos.arguments(tmp_path, spare))
        assert {placed.spare for model in config.models.values() for placed in model.placements} <= {0, spare}
    AppArguments.model_validate(soak.arguments(tmp_path, 60.0))
    for plan in (separation_kills.QUICK, separation_kills.FULL):
        AppArguments.model_validate(separation_kills.arguments_of(plan, tmp_path))


def test_unknown_faults_and_no_time_are_refused() -> None:
    with pytest.raises(MotetError, match="kil-speech"):
        chaos.run(True, ("kil-speech",))
    with pytest.raises(MotetError, match="0 minutes"):
        soak.run(True, 0.0)


def test_bytes_that_only_one_result_has_differ() -> None:
    assert separation_kills.differing(b"abc", b"abc") == 0
    assert separation_kills.differing(b"abc", b"xbcde") == 3


def test_chunks_of_a_recording() -> None:
    assert [separation_kills.chunks_of(seconds) for seconds in (5.0, 10.0, 10.1, 17.0, 17.1)] == [1, 1, 2, 2, 3]


def history(at_end: float, *, busy: float = 0.0) -> ProcessHistory:
    """A process that has 100 MB in the first half and rises evenly to `at_end` MB, and up to `busy` more while it works."""
    found, noise = ProcessHistory("ray::x"), random.Random(0)
    for at_s in range(0, 800, 2):
        share = max(0.0, (at_s - 400) / 400)
        found.times_s.append(at_s)
        found.memory.append((100 + share * (at_end - 100) + noise.random() * busy) * MB)
        found.files.append(10 + (at_s >= 700))
        found.threads.append(5)
    return found


def test_what_a_process_holds_at_the_end_and_not_while_it_works_is_growth() -> None:
    grown = growth_of(history(120.0, busy=50.0), 800.0)
    assert grown is not None and grown.memory_percent > 10
    assert (grown.files, grown.threads) == (1, 0)
    still = growth_of(history(100.5, busy=50.0), 800.0)
    assert still is not None and still.memory_percent < 3


def test_a_process_that_did_not_live_through_the_second_half_has_no_growth() -> None:
    assert growth_of(history(200.0), 2000.0) is None
