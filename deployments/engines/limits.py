"""What engines may implement that have limits: of streams, of the time of a step, of memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class LimitsStreams(Protocol):
    """A speech engine with a fixed number of places for open utterances. Other engines take any number."""

    @property
    def max_streams(self) -> int:
        """Utterances that can be open at once. The first step of one more fails."""


@runtime_checkable
class LimitsStepTime(Protocol):
    """A speech engine whose step takes about the same time for any number of utterances: it does as much work as the time
    allows, for the first utterances first, and gives the others pending chunks."""

    @property
    def step_ms(self) -> float:
        """The target duration of a step, in ms."""


@runtime_checkable
class StepsConcurrently(Protocol):
    """A speech engine that works on several utterances concurrently and not as one padded batch. A step ends as soon as one
    utterance has audio; the others have pending chunks."""

    @property
    def concurrency(self) -> int:
        """Utterances that the engine works on at once. More in one step only wait."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Device memory that an engine's library holds, in bytes. `cached_bytes` is unused and not yet returned to the system."""

    active_bytes: int
    cached_bytes: int
    peak_bytes: int


@runtime_checkable
class LimitsMemory(Protocol):
    """An engine that refuses new work while it holds too much memory."""

    def memory_refusal(self) -> Exception | None:
        """The `MotetError` (overloaded) for new work now, or None. Returns cached memory to the system first."""

    def memory(self) -> Memory:
        """The memory that is held now. May be called from any thread."""
