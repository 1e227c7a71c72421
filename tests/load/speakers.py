"""The interface of the models that the benchmarks of voices measure."""

from __future__ import annotations

from typing import Any, Protocol

from deployments.engines.protocols import SpeechEngine, SpeechRequest


class Speakers(Protocol):
    """One model of ours, and what it is given to say."""

    @property
    def engine(self) -> SpeechEngine[Any]:
        """Our engine with the settings of a service on this machine."""

    def request(self, number: int) -> SpeechRequest:
        """A stream of ours; the package's stream of the same number says the same."""
