"""Ctrl-C: the first one ends the command, and later ones neither break that nor print a traceback."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

ENDING_S = 30.0
"""How long SIGINT is ignored after the one that ends the command. If the command still runs then, the next one ends it."""
Clock = Callable[[], float]


@contextmanager
def one_interruption(clock: Clock = time.monotonic) -> Iterator[None]:
    """Raises one `KeyboardInterrupt` for all the SIGINTs of `ENDING_S`, and lets no other error replace it.

    A terminal's user presses Ctrl-C twice, and `timeout -s INT` sends it twice. The second one would come while a library
    cleans up after the first, and break that: `Condition.wait` takes its lock again in a `finally`.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:  # whoever started the command wants it so, as a shell does for `command &`
        yield
        return
    interrupt = _Interrupt(clock)
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except Exception as error:
        if interrupt.raised_s is None:
            raise
        raise KeyboardInterrupt from error
    finally:
        signal.signal(signal.SIGINT, before)


class _Interrupt:
    """The handler of SIGINT."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.raised_s: float | None = None

    def __call__(self, *_: object) -> None:
        now_s = self._clock()
        if self.raised_s is None or now_s - self.raised_s >= ENDING_S:
            self.raised_s = now_s
            raise KeyboardInterrupt


def hide_interruptions() -> None:
    """No `KeyboardInterrupt` of this program prints a traceback from now on, wherever it is raised: while an earlier one is
    handled, in a callback of the import system, or while Python ends. Safe to call again."""
    if not isinstance(sys.excepthook, _QuietHook):
        sys.excepthook = _QuietHook(sys.excepthook)
    if not isinstance(sys.unraisablehook, _QuietUnraisableHook):
        sys.unraisablehook = _QuietUnraisableHook(sys.unraisablehook)


def is_interruption(error: BaseException | None) -> bool:
    """Whether an error came of a `KeyboardInterrupt`."""
    seen = set[int]()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def end_without_further_interruptions(clock: Clock = time.monotonic) -> None:
    """Ignores SIGINT for `ENDING_S` while the program ends. If it still runs then, the next one ends it at once, with 130."""
    began_s = clock()

    def ending(*_: object) -> None:
        if clock() - began_s >= ENDING_S:
            os._exit(130)

    signal.signal(signal.SIGINT, ending)


class _QuietHook:
    """Says nothing of interruptions, after which Python ends the program as SIGINT does; everything else goes to `other`."""

    def __init__(self, other: Callable[[type[BaseException], BaseException, TracebackType | None], object]) -> None:
        self._other = other

    def __call__(self, kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        if not is_interruption(error):
            self._other(kind, error, where)


class _QuietUnraisableHook:
    """The same for errors that cannot be raised."""

    def __init__(self, other: Callable[[UnraisableHookArgs], object]) -> None:
        self._other = other

    def __call__(self, found: UnraisableHookArgs) -> None:
        if not is_interruption(found.exc_value):
            self._other(found)
