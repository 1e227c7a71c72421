"""The growth of an engine's memory under load."""

from __future__ import annotations

import gc
import resource
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from deployments.engines.limits import LimitsStreams
from deployments.engines.protocols import (
    SpeechEngine,
)
from deployments.replica.malloc_trim import Allocator, MallocTrim, keep_freed_memory
from serve_app.bench.frame import Figure, Sheet, at_most
from tests.load.speakers import Speakers

if TYPE_CHECKING:
    pass

from tests.load.voice_runs import good

SOAK = [
    Figure("streams at a time", ""),
    Figure("memory once warm", "MB"),
    Figure("memory at the end", "MB"),
    Figure("growth", "%", at_most(5)),
    Figure("most memory", "MB"),
    Figure("slots taken when all have left", "", at_most(0)),
    Figure("utterances", ""),
    Figure("of them left early", ""),
]


def soak(sheet: Sheet, contest: Speakers, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
    """Measures `SOAK`: runs as many streams as the engine has places, or eight, and closes one early at one step in four.

    As in a replica, freed memory is returned to the system now and then. Memory is compared after all streams have been closed:
    when the engine is warm (after a tenth of the time, and when every place was used twice), and at the end. On a slow machine
    the run is longer: at least twice the time to be warm.
    """
    engine, random, allocator = contest.engine, np.random.default_rng(0), keep_freed_memory()
    streams = engine.max_streams if isinstance(engine, LimitsStreams) else 8
    trim, started = MallocTrim(allocator), clock()
    free = _free_slots(engine)
    live: list[Any] = []
    opened = left = 0
    early: float | None = None
    elapsed = warm = 0.0
    while early is None or elapsed < max(minutes * 60, 2 * warm):
        while len(live) < streams:
            live.append(engine.open(contest.request(opened)))
            opened += 1
        for result in engine.step(live):
            good(result)
        trim.look()
        if random.random() < 0.25:
            engine.close(live.pop(int(random.integers(len(live)))))
            left += 1
        live = [utterance for utterance in live if not utterance.finished]
        elapsed = clock() - started
        if early is None and elapsed > minutes * 6 and opened >= 2 * streams:
            left += _all_leave(engine, live)
            early, warm = _megabytes(allocator), elapsed
    left += _all_leave(engine, live)
    late = _megabytes(allocator)
    sheet.put("streams at a time", streams)
    sheet.put("memory once warm", early, f"after {warm:.0f} s")
    sheet.put("memory at the end", late)
    sheet.put("growth", 100 * (late / early - 1), f"in {elapsed / 60:.1f} minutes")
    sheet.put("most memory", most_megabytes())
    sheet.put("slots taken when all have left", free - _free_slots(engine))
    sheet.put("utterances", opened)
    sheet.put("of them left early", left)


def _all_leave(engine: SpeechEngine[Any], live: list[Any]) -> int:
    """Closes all streams; returns their number."""
    count = len(live)
    while live:
        engine.close(live.pop())
    return count


def _free_slots(engine: SpeechEngine[Any]) -> int:
    """The engine's free slots; 0 for an engine without slots."""
    cache = getattr(engine, "cache", None)
    return int(cache.free) if cache else 0


def _megabytes(allocator: Allocator | None) -> float:
    """Resident memory in MB, after freed memory was returned to the system."""
    import psutil

    gc.collect()
    if allocator:
        allocator.give_back()
    return float(psutil.Process().memory_info().rss) / 1e6


def most_megabytes() -> float:
    """The peak memory of this process in MB."""
    unit = 1e6 if sys.platform == "darwin" else 1e3  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
