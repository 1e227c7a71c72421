"""How far a separation is, as events."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np

from deployments.tasks.separation import Gap, Merged
from serve_app.gateway.separation_progress import SeparationProgress

GAP = Gap(2.0, 4.0)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def separated(clock: Clock, *gaps: Gap | None) -> AsyncGenerator[Merged]:
    """Parts of two seconds, each a second after the one before."""
    for gap in gaps:
        clock.now_s += 1
        yield Merged({"speech": np.zeros((1, 32_000), np.float32)}, 16_000, gap)


async def told(expected_s: float, *gaps: Gap | None) -> tuple[list[dict[str, Any]], dict[str, str]]:
    clock = Clock()
    progress = SeparationProgress(expected_s, clock)
    events = [event async for _ in progress.follow(separated(clock, *gaps)) for event in progress.events("separation")]
    return events, progress.report()


async def test_the_time_that_is_left_follows_from_the_pace() -> None:
    events, report = await told(8.0, None, None)
    assert [(each["chunks"], each["seconds"], each["remaining_seconds"]) for each in events] == [
        (1, 2.0, 3.0),
        (2, 4.0, 2.0),
    ]
    assert report == {}


async def test_a_recording_that_is_longer_than_expected_is_nearly_done() -> None:
    events, _ = await told(3.0, None, None)
    assert (events[-1]["expected_seconds"], events[-1]["remaining_seconds"]) == (4.0, 0.0)


async def test_gaps_are_told_once_and_listed() -> None:
    events, report = await told(8.0, None, GAP, None)
    assert [each["type"].removeprefix("separation.") for each in events] == ["progress", "gap", "progress", "progress"]
    assert events[1] == {"type": "separation.gap", "start": 2.0, "end": 4.0}
    assert json.loads(report["gaps.json"]) == [{"start": 2.0, "end": 4.0}]


def test_before_the_first_part_nothing_is_known() -> None:
    (event,) = SeparationProgress(8.0).events("separation")
    assert (event["seconds"], event["remaining_seconds"]) == (0.0, None)
