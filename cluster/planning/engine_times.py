"""The time of an engine's step by the size of its batch and the length of its items."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.planning.settings import EngineTimes
from deployments.errors import fail

STEP = re.compile(r"step, batch (\d+)")
"""The name of a figure with the time of a step, in ms."""


class StepTimes:
    """How long steps take. All times are in seconds."""

    def __init__(self, times: EngineTimes) -> None:
        by_size = steps_of_benchmark(Path(times.benchmark)) if times.benchmark else times.step_ms
        self._sizes = sorted(by_size)
        self._step_s = [by_size[size] / 1000 for size in self._sizes]
        self._second_s = times.ms_per_second_of_audio / 1000
        self._first_s = times.first_step_ms / 1000
        self._of_batch: dict[int, float] = {}

    def of(self, seconds_of_audio: Sequence[float], first: bool) -> float:
        """The time of a step that makes or hears this much audio for each of its items; `first` if one of them begins."""
        size = len(seconds_of_audio)
        base = self._of_batch.get(size)
        if base is None:
            base = self._of_batch[size] = self._interpolated(size)
        padded = self._second_s * size * max(seconds_of_audio) if self._second_s else 0.0
        return base + padded + (self._first_s if first else 0.0)

    def _interpolated(self, size: int) -> float:
        sizes, times = self._sizes, self._step_s
        if len(sizes) == 1 or size <= sizes[0]:
            return times[0]
        high = min(bisect_left(sizes, size), len(sizes) - 1)
        low = high - 1
        slope = (times[high] - times[low]) / (sizes[high] - sizes[low])
        return max(times[low] + slope * (size - sizes[low]), times[0] / 2)


def steps_of_benchmark(file: Path) -> Mapping[int, float]:
    """The times of steps in ms by batch size, from a benchmark's JSON. Raises `MotetError` (invalid) if it has none."""
    try:
        report = json.loads(file.read_text())
        found = {
            int(name[1]): float(figure["value"])
            for figure in report["figures"]
            if (name := STEP.fullmatch(figure["name"])) and figure["value"] is not None
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise fail(
            "invalid", f"The benchmark {str(file)!r} cannot be read: {error}.", "Name a JSON of motet bench."
        ) from error
    if not found:
        cause = f"The benchmark {str(file)!r} has no figure 'step, batch N'."
        raise fail("invalid", cause, "Use motet bench plan --json, or write step_ms.")
    return found
