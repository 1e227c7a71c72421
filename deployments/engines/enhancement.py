"""The protocol of engines that take noise out of a sound while it is recorded: blocks of samples in, as many out.

A stream's state is a value that its caller keeps. A call does not change it: the same state and samples give the same result
again, on any replica.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

from deployments.engines.protocols import Samples, SeparationTraits

State = TypeVar("State")


@runtime_checkable
class StreamingEnhancement(Protocol[State]):
    """Noise out of many streams. `enhance` may be called while another thread calls the engine's `separate`."""

    @property
    def traits(self) -> SeparationTraits:
        """The model's abilities, with `live` blocks."""

    def initial_state(self, channels: int) -> State:
        """The state of a stream before its first block."""

    def enhance(self, blocks: Sequence[Samples], states: Sequence[State]) -> list[tuple[Samples, State] | Exception]:
        """Advances streams together: the enhanced samples of each, and its next state, or an error in its place.

        Each of `blocks` is float32 (channels, n), n equal for all and a multiple of a block. The output has the input's
        shape, and is late by the `late_samples` of `live`.
        """
