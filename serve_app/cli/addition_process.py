"""The process in which a service adds a model: `python -m serve_app.cli.addition_process ORDER`, an `AdditionOrder` in JSON.

Standard input is its lifeline: the gateway that started it holds the other end, and when that is closed the process
ends. What was downloaded stays, and the next addition continues there. Linux's signal for the death of a parent would come
when the thread ends that started the process, and macOS has none.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress

from deployments.catalogue.additions import Addition, AdditionOrder, Additions
from deployments.errors import MotetError, fail, in_one_line

PERIOD_S = 0.25
"""How often the state is written, if it has changed, and the wish to cancel is looked for."""
NICENESS = 10
"""The replicas of the service go first."""


class AdditionReport:
    """Keeps the state of an addition written. `end` ends the process: the gateway is gone, or a client cancelled."""

    def __init__(
        self, order: AdditionOrder, additions: Additions, lifeline: int, end: Callable[[], None] = lambda: os._exit(1)
    ) -> None:
        self._name = order.name
        self._additions = additions
        self._lifeline = lifeline
        self._end = end
        self._lock = threading.Lock()
        self._written = self._now = additions.find(order.name) or Addition()
        self._done = False

    def start(self) -> None:
        """Begins to watch and to write."""
        threading.Thread(target=self._watch, daemon=True).start()

    def received(self, done: int, total: int) -> None:
        """`done` of `total` bytes are there."""
        self._now = self._now.model_copy(update={"received_bytes": done, "total_bytes": total})

    def tries(self) -> None:
        """The files are there, and the model is tried."""
        self._now = self._now.model_copy(update={"state": "trying"})

    def finish(self, cause: str | None = None) -> None:
        """The model is here, or it failed with a cause."""
        with self._lock:
            self._done = True
            if cause is None:
                self._additions.clear(self._name)
            else:
                failed = self._now.model_copy(update={"state": "failed", "cause": cause})
                self._additions.write(self._name, failed)

    def look(self, wait_s: float = PERIOD_S) -> None:
        """Waits for the end of the gateway for a while, then writes what has changed."""
        ready, _, _ = select.select([self._lifeline], [], [], wait_s)
        if (ready and not os.read(self._lifeline, 1)) or self._additions.is_cancelled(self._name):
            self._end()
        with self._lock:
            now = self._now
            if now != self._written and not self._done:
                with suppress(OSError):  # a full disk, for instance. The process must stay one that can be ended
                    self._additions.write(self._name, now)
                    self._written = now

    def _watch(self) -> None:
        while True:
            self.look()


def add(order: AdditionOrder, report: AdditionReport) -> None:
    """Adds the model of an order, as `motet models add NAME --no-config` does. Raises `MotetError`."""
    from deployments.catalogue.adding import fetch_and_note
    from deployments.catalogue.choice import choose
    from deployments.catalogue.installed import InstalledModels
    from serve_app.cli.local import reason_of
    from serve_app.cli.models_add import present_hardware, try_and_note

    present, store = present_hardware(), InstalledModels(order.registry)
    choice = choose(order.name, order.registry.model_catalogue, present, hardware=order.hardware)
    installed = fetch_and_note(choice, store, report.received)
    if order.try_it and installed.hardware in present:
        report.tries()
        try:
            try_and_note(installed, store)
        except Exception as error:
            cause = f"The files are here, and the model does not work: {reason_of(error)}"
            raise fail("unavailable", cause, code="trial_failed") from error


def main() -> None:
    """The whole life of the process. Its exit status says nothing: the state does."""
    order = AdditionOrder.model_validate_json(sys.argv[1])
    os.set_inheritable(order.lock, False)  # the lock must not outlive this process in one that a trial starts
    os.nice(NICENESS)
    report = AdditionReport(order, Additions(order.registry), sys.stdin.fileno())
    report.start()
    try:
        add(order, report)
    except MotetError as error:
        report.finish(error.failure.explained)
    except Exception as error:
        traceback.print_exc()
        report.finish(in_one_line(error))
    else:
        report.finish()
    os.close(order.lock)  # whoever has read the last state may go on before the interpreter has ended


if __name__ == "__main__":
    main()
