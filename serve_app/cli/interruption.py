"""Ctrl-C in a command that has much to end, such as Ray: the first one ends the command, and later ones do not break that."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
