"""What is said to requests while no replica of a model answers. The clock is set by hand."""

from __future__ import annotations

import pytest

from deployments.errors import MotetError
from deployments.settings import HealthSettings
from serve_app.gateway.routing.placement import MIN_RETRY_S, RETURN_SPACING_S, RETURN_SPREAD_S, START_S, Absence

HEALTH = HealthSettings(period_s=3, timeout_s=4)
PATIENCE_S = 5.0
LOAD_S = 2.0


class Bench:
    """An absence, and its clock."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.absence = Absence("m", HEALTH, PATIENCE_S, lambda: self.now_s)
        self.absence.note_load(LOAD_S)

    def told(self, waited_s: float = 0.0, *, begun: bool = False) -> float | None:
        """`Retry-After` of the refusal of a request; None if it may wait."""
        try:
            self.absence.ensure_short(waited_s, begun=begun)
        except MotetError as error:
            assert (error.failure.kind, error.failure.code) == ("unavailable", "model_restarting")
            return error.failure.retry_after_s
        return None


def test_a_client_is_told_when_a_frozen_replica_will_have_been_replaced() -> None:
    bench = Bench()
    assert bench.told() is None
    bench.absence.begin(100.0, frozen=True)
    after_s = HEALTH.noticed_within_s + START_S + LOAD_S
    assert bench.told() == pytest.approx(after_s)
    bench.now_s += 10.0
    assert bench.told() == pytest.approx(after_s - 10.0 + RETURN_SPACING_S)
    bench.now_s += 400.0
    assert bench.told() == MIN_RETRY_S + 2 * RETURN_SPACING_S
    bench.absence.end()
    assert bench.told() is None and not bench.absence.lasts


def test_refused_requests_come_back_one_after_another() -> None:
    bench = Bench()
    bench.absence.begin(100.0, frozen=True)
    first_s = bench.told()
    assert first_s is not None
    turns = [(bench.told() or 0.0) - first_s for _ in range(100)]
    assert turns[:3] == pytest.approx([RETURN_SPACING_S, 2 * RETURN_SPACING_S, 3 * RETURN_SPACING_S])
    assert max(turns) < RETURN_SPREAD_S
    bench.absence.end()
    bench.absence.begin(100.0, frozen=True)
    assert bench.told() == pytest.approx(first_s)


def test_a_start_is_waited_for_once_it_is_near() -> None:
    bench = Bench()
    bench.absence.begin(100.0, frozen=False)
    assert bench.told() == START_S + LOAD_S
    bench.now_s += START_S + LOAD_S - PATIENCE_S
    assert bench.told() is None
    assert bench.told(waited_s=1.0) == PATIENCE_S + RETURN_SPACING_S
    bench.now_s += 100.0  # it is late
    assert bench.told() is None
    assert bench.told(waited_s=PATIENCE_S) == MIN_RETRY_S + 2 * RETURN_SPACING_S


def test_a_request_that_has_begun_waits_for_a_start_and_not_for_frozen_replicas() -> None:
    bench = Bench()
    bench.absence.begin(100.0, frozen=False)
    assert bench.told() is not None
    assert bench.told(waited_s=60.0, begun=True) is None
    bench.absence.end()
    bench.absence.begin(100.0, frozen=True)
    assert bench.told(begun=True) is not None


def test_the_last_start_predicts_the_next_one() -> None:
    bench = Bench()
    bench.absence.begin(100.0, frozen=False)
    bench.now_s += 3.0
    bench.absence.end()
    bench.absence.begin(bench.now_s, frozen=False)
    assert bench.absence.left_s == 3.0
    assert bench.told() is None and bench.told(waited_s=2.5) == 3.0
    bench.absence.begin(0.0, frozen=False)
    assert bench.absence.left_s == 3.0, "it began once"


def test_frozen_replicas_that_were_ended_are_gone() -> None:
    bench = Bench()
    bench.absence.begin(100.0, frozen=True)
    bench.absence.begin(110.0, frozen=False)
    assert not bench.absence.frozen
    assert bench.absence.left_s == 10.0 + START_S + LOAD_S
    bench.absence.begin(120.0, frozen=True)
    assert not bench.absence.frozen
