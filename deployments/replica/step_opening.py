"""When the next step begins, and who takes part in it: the rules of the step gate, on any clock.

The replica runs them on its event loop (`step_gate.py`), and `motet plan` on a simulated clock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from deployments.replica.step_scheduling import Candidate, choose
from deployments.settings import StepSettings
from deployments.tasks.engine_calls import Cancellable

Item = TypeVar("Item")


Later = Callable[[float, Callable[[], None]], Cancellable]
"""Calls a function after a time in seconds."""


class StepOpening(Generic[Item]):
    """Holds candidates while a step runs, and lets the chosen ones in when it ends.

    After a step its streams return for the next one within milliseconds. The next step waits for them for `batch_wait_ms`, or
    until all open streams are back. `clock` is monotonic, in seconds.
    """

    def __init__(self, settings: StepSettings, clock: Callable[[], float], later: Later) -> None:
        self.settings = settings
        self.streams = 0
        """Open streams, which take step after step."""
        self.most_beside_live: int | None = None
        """The most items of a step that are not of live streams; None for no limit but that of the settings."""
        self._clock = clock
        self._later = later
        self._waiting: dict[Candidate[Item], None] = {}
        self._expected = 0
        self._settling: Cancellable | None = None

    def let_in(self, candidate: Candidate[Item], together: int) -> None:
        """A candidate is in the next step, with `together` candidates in all."""
        raise NotImplementedError

    def pending(self) -> Sequence[Candidate[Item]]:
        """The candidates that may be chosen."""
        return list(self._waiting)

    @property
    def waiting(self) -> int:
        """The number of candidates that wait."""
        return len(self._waiting)

    def end_stream(self) -> None:
        """A stream ended. All others may be back."""
        self.streams -= 1
        if self._waiting:
            self._open_if_due()

    def wait(self, candidate: Candidate[Item]) -> None:
        """A candidate waits for a step, which may begin at once."""
        self._waiting[candidate] = None
        self._open_if_due()

    def forget(self, candidate: Candidate[Item]) -> None:
        """A candidate was let in, or left."""
        self._waiting.pop(candidate, None)

    def end_one(self) -> None:
        """One of those who were let in has its result, or left."""
        self._expected -= 1
        if self._expected == 0:
            self._settling = self._later(self.settings.batch_wait_ms / 1000, self._settled)

    def _settled(self) -> None:
        self._settling = None
        self._open()

    def _open_if_due(self) -> None:
        """Opens at once if the engine has been idle; after a step, when all streams are back."""
        if self._expected > 0:
            return
        if self._settling is None:
            self._open()
        elif len(self._waiting) >= min(max(self.streams, 1), self.settings.max_batch_size):
            self._settling.cancel()
            self._settled()

    def _open(self) -> None:
        chosen = choose(self.pending(), self.settings, self._clock(), self.most_beside_live)
        self._expected = len(chosen)
        for candidate in chosen:
            self.let_in(candidate, len(chosen))
