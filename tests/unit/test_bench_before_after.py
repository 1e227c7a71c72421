"""The comparison of two checkouts' figures."""

from __future__ import annotations

from typing import Any

import pytest

from tests.load.before_after import Comparison, compared


def figure(name: str, value: float | None, at: str | None = None) -> dict[str, Any]:
    return {"name": name, "unit": "s", "value": value, "target": at and {"at": at, "limit": 1.0}}


@pytest.mark.parametrize(
    ("better", "now", "worse"),
    [("least", 0.96, True), ("least", 0.98, False), ("most", 1.04, True), ("most", 0.5, False), ("", 9.0, False)],
)
def test_worse_is_away_from_the_target(better: str, now: float, worse: bool) -> None:
    assert Comparison("speed", "x", better, (1.0,), (now,)).is_worse(0.03) is worse


def test_figures_are_matched_by_name_and_compared_by_their_medians() -> None:
    before = [
        [figure("speed", value, "most"), figure("broken", None), figure("gone", 1.0)] for value in (1.0, 9.0, 2.0)
    ]
    now = [[figure("new", 1.0), figure("broken", 1.0), figure("speed", value, "most")] for value in (1.0, 1.0, 1.5)]
    (comparison,) = compared(before, now)
    assert (comparison.name, comparison.ratio) == ("speed", 0.5)
    assert comparison.spread == pytest.approx(3.5)
