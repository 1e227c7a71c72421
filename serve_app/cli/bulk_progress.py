"""The progress of a bulk job: a bar on a terminal, or lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from cluster.bulk.run import JobProgress

LINE_EVERY_S = 30.0
LEAST_MEASURED_S = 1.0
"""The shortest time of which a speed is computed: batches may end at almost the same moment."""


@contextmanager
def bulk_progress(*, quiet: bool = False) -> Iterator[Callable[[JobProgress], None]]:
    """Gives a function that takes the progress of a job and writes it to standard error, unless it is `quiet`."""
    if quiet:
        yield lambda now: None
        return
    if not sys.stderr.isatty():
        yield ProgressLog(lambda line: Console(stderr=True).print(line, highlight=False, soft_wrap=True))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), MofNCompleteColumn())
    bar = Bar(*columns, TimeElapsedColumn(), TextColumn("{task.fields[pace]}"), console=Console(stderr=True))
    with bar:
        task = bar.add_task("Starting", total=None, pace="")
        pace = ProgressText()

        def show(now: JobProgress) -> None:
            bar.update(task, description="Rendering", total=now.of_rows, completed=now.rows, pace=pace(now))

        yield show


class ProgressText:
    """The remaining time and the speed, since the first batch of this run: loading does not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: tuple[float, JobProgress] | None = None

    def __call__(self, now: JobProgress) -> str:
        """Such as `12.3 x real time, 0:04:10 left, 2 failed`; no speed until a second after the first batch."""
        if now.new_size and self._first is None:
            self._first = (self._clock(), now)
        if self._first is None:
            return ""
        began, first = self._first
        elapsed, size = self._clock() - began, now.size - first.size
        failed = f", {now.failed} failed" if now.failed else ""
        if elapsed < LEAST_MEASURED_S or size == 0:
            return failed.removeprefix(", ")
        left = timedelta(seconds=round((now.of_size - now.size) * elapsed / size))
        return f"{(now.seconds - first.seconds) / elapsed:.1f} x real time, {left} left{failed}"


class ProgressLog:
    """Writes a line every half minute, and one for the last batch."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._pace = ProgressText(clock)
        self._told = clock()

    def __call__(self, now: JobProgress) -> None:
        """Takes the progress of the job."""
        pace = self._pace(now)
        if self._clock() - self._told >= LINE_EVERY_S or (now.new_size and now.rows == now.of_rows):
            self._told = self._clock()
            self._write(f"motet: {now.rows} of {now.of_rows} rows{', ' if pace else ''}{pace}")
