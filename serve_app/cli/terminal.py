"""Standard streams: recordings that come in, messages and progress on standard error, facts as JSON on standard output."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from deployments.errors import fail
from serve_app.cli.options import STDIO

SHOWN_NAMES = 3
"""Of a longer list."""
BAR_AFTER_S = 2.0
"""Work that takes less, loading included, needs no progress bar."""


def note(line: str) -> None:
    """Writes a message to standard error."""
    print(line, file=sys.stderr)


def report(line: str, facts: Any, *, quiet: bool = False) -> None:
    """Writes a message to standard error unless `quiet`, and a dataclass of `facts`, if not None, to standard output as
    JSON."""
    if not quiet:
        note(line)
    if facts is not None:
        print(json.dumps(asdict(facts), default=str))


def some_of(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more


def show_facts(facts: Any) -> None:
    """Writes facts to standard output as JSON."""
    print(json.dumps(facts, default=str, ensure_ascii=False))


def show_rows(columns: Sequence[str], rows: Sequence[Sequence[str]], facts: Sequence[Any] | None) -> None:
    """Writes a table to standard output; dataclasses of `facts`, if not None, as JSON instead, one a line."""
    if facts is not None:
        for each in facts:
            show_facts(asdict(each))
        return
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def pace(facts: Any) -> str:
    """How long work on audio took, from facts with `audio_seconds`, `wall_seconds`, `load_seconds` and so on."""
    return (
        f"{facts.audio_seconds:.2f} s of audio in {facts.wall_seconds:.2f} s: {facts.model} loaded in "
        f"{facts.load_seconds:.2f} s on {facts.hardware}, then {facts.times_real_time:.1f} times real time"
    )


def standard_input() -> BinaryIO:
    """Standard input as bytes. Raises `MotetError` (invalid) if it is closed."""
    if sys.stdin is None:  # whoever started the program closed it
        raise fail("invalid", "Standard input is closed.", "Pipe something in, or name it on the command line.")
    return sys.stdin.buffer


def opened(file: Path) -> AbstractContextManager[Any]:
    """A recording as an open file; `-` is standard input."""
    return nullcontext(standard_input()) if file == STDIO else file.open("rb")


@contextmanager
def progress_bar(label: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that takes how much is done, and of how much. It draws a bar on a terminal, after a while, unless it
    is `quiet`."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    started = time.perf_counter()
    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        task = bar.add_task(label, total=None, visible=False)

        def show(done: int, total: int) -> None:
            late = time.perf_counter() - started > BAR_AFTER_S
            bar.update(task, completed=done, total=total, visible=late, refresh=late)

        yield show


@contextmanager
def byte_progress(label: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Gives a function that takes how many bytes are there, and of how many. On a terminal it draws a bar with the speed and
    the time that is left; elsewhere it writes a line for each tenth."""
    if quiet:
        yield lambda done, total: None
        return
    if not sys.stderr.isatty():
        yield _Tenths(label).show
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Tenths:
    """A line for each tenth of a download."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._shown = 0

    def show(self, done: int, total: int) -> None:
        """Writes a line if another tenth is there."""
        tenth = done * 10 // total if total else 10
        if tenth > self._shown:
            self._shown = tenth
            note(f"{self._label}: {done / 1e6:,.1f} of {total / 1e6:,.1f} MB")
