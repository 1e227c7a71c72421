"""One stream that a replica enhances while it is recorded, and continues at another replica if that one is lost."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from deployments.engines.protocols import LiveBlocks, Samples
from deployments.errors import fail
from deployments.replica.enhancement_streams import Checkpoint, EnhancedAnswer
from serve_app.gateway.routing.admission import SessionLimit
from serve_app.gateway.routing.directory import ModelDirectory
from serve_app.gateway.routing.pinned_stream import PinnedStream
from serve_app.gateway.settings import EnhancementSettings

SMOOTHING = 0.1
"""Weight of the newest cost in its running mean."""
FORGOTTEN_AFTER_S = 60.0
"""How long a cost counts: the machine may have become faster since."""
MOST_BUSY = 0.8
"""The share of time in which a model may enhance, so that calls do not queue."""


class EnhancementLoad:
    """The streams of a gateway by model, and what a second of sound costs, in seconds of a replica. `clock` is monotonic, in
    seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._open = Counter[str]()
        self._cost: dict[str, float] = {}
        self._noted_s: dict[str, float] = {}
        self._clock = clock

    @contextmanager
    def admit(self, model: str, replicas: int) -> Iterator[None]:
        """Counts a stream. Raises `MotetError` (overloaded) if all streams together would be too much for the replicas. One
        is always admitted: it measures the cost anew."""
        streams = self._open[model]
        if streams and (streams + 1) * self._known_cost(model, 0.0) > MOST_BUSY * replicas:
            cause = f"The model {model!r} enhances {streams} streams, and cannot do another in time."
            raise fail("overloaded", cause, "Try again when a stream has ended.", code="model_busy")
        self._open[model] += 1
        try:
            yield
        finally:
            self._open[model] -= 1

    def note(self, model: str, share_s: float, seconds: float) -> None:
        """A stream's share of a step with `seconds` of its sound was `share_s`."""
        cost = share_s / seconds
        self._cost[model] = self._known_cost(model, cost) * (1 - SMOOTHING) + cost * SMOOTHING
        self._noted_s[model] = self._clock()

    def _known_cost(self, model: str, otherwise: float) -> float:
        known = self._clock() - self._noted_s.get(model, -math.inf) <= FORGOTTEN_AFTER_S
        return self._cost[model] if known else otherwise


@dataclass(frozen=True, slots=True)
class LiveEnhancements:
    """What the live enhancements of a gateway replica share."""

    settings: EnhancementSettings
    limit: SessionLimit
    load: EnhancementLoad


class LiveEnhancement:
    """A stream of one model. The sound after the latest checkpoint is kept, so that another replica gives the same
    samples."""

    def __init__(
        self, directory: ModelDirectory, model: str, blocks: LiveBlocks, channels: int, load: EnhancementLoad
    ) -> None:
        self._model = model
        self._rate = blocks.sample_rate
        self._load = load
        self._checkpoint: Checkpoint | None = None
        self._kept = np.zeros((channels, 0), np.float32)
        """The sound after the checkpoint."""
        self._sent = 0
        """What the replica has of the stream, in samples."""
        self._stream = PinnedStream(directory, model, "enhance", self._begin_again)

    async def enhance(self, samples: Samples) -> Samples:
        """The next float32 (channels, n), enhanced; n is a multiple of the model's block. Raises `MotetError`."""
        self._kept = np.concatenate([self._kept, samples], axis=1)
        enhanced = await self._stream.attempt(self._answer)
        return enhanced[:, -samples.shape[1] :]  # another replica repeats what came before

    async def close(self) -> None:
        """Frees the stream at its replica, if there is one."""
        await self._stream.close()

    @property
    def _start(self) -> int:
        """Where the sound begins that is kept."""
        return self._checkpoint.position if self._checkpoint else 0

    async def _answer(self) -> Samples:
        """Sends what the replica does not have yet."""
        samples = self._kept[:, self._sent - self._start :]
        resume = None if self._stream.is_open else self._checkpoint
        answer: EnhancedAnswer = await self._stream.ask(self._sent, samples, resume)
        self._load.note(self._model, answer.share_s, samples.shape[1] / self._rate)
        self._sent += samples.shape[1]
        if checkpoint := answer.sound.checkpoint:
            self._kept = self._kept[:, checkpoint.position - self._start :]
            self._checkpoint = checkpoint
        return answer.sound.samples

    def _begin_again(self) -> None:
        """A replica gets the sound after the checkpoint."""
        self._sent = self._start
