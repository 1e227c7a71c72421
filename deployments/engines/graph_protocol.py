"""The protocol of engines that capture their step as a graph, and the counts that a replica reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(slots=True)
class CaptureStats:
    """Counts of an engine's captured step: steps that were replayed, plain steps, captures, failed captures, and the seconds
    that captures took."""

    replayed: int = 0
    plain: int = 0
    captures: int = 0
    failures: int = 0
    capture_seconds: float = 0.0
    last_failure: str = ""

    @property
    def hit_rate(self) -> float:
        """The share of steps that were replayed; 0 before the first."""
        steps = self.replayed + self.plain
        return self.replayed / steps if steps else 0.0


class CapturedGraphs(Protocol):
    """A step that is captured as one graph for each size, or several of them (`engines/graphs.py`)."""

    @property
    def counts(self) -> CaptureStats:
        """What was replayed and captured so far."""

    def capture_one_wanted(self) -> bool:
        """Captures one size that steps asked for and did not find; False if there is none. Called while the engine is
        idle."""


@runtime_checkable
class CapturesGraphs(Protocol):
    """An engine that captures its step, as a CUDA graph or as a compiled graph."""

    @property
    def captured(self) -> CapturedGraphs:
        """The captured step."""
