"""The streams that a replica enhances while they are recorded: found by id, and closed when they are forgotten.

The replica has the newest state of a stream. Now and then it sends the state along with an answer, so that another replica
can continue from there, and gives the same samples.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.engines.enhancement import StreamingEnhancement
from deployments.engines.protocols import Samples
from deployments.errors import fail

MOST_STREAMS = 128
"""Open streams of a replica."""
IDLE_S = 30.0
"""A stream without a call for this long is closed: its client, or the gateway, is gone."""
CHECKPOINT_EVERY_S = 1.0
"""Sound after which an answer has the stream's state with it. That of DeepFilterNet3 has 0.12 MB a channel."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The engine's `state` of a stream after its first `position` samples."""

    position: int
    state: Any


@dataclass(slots=True, eq=False)
class EnhancementStream:
    """A stream: where it is `now`, and the position of the latest checkpoint that was sent, `checked`."""

    id: str
    now: Checkpoint
    checked: int
    used_s: float
    calls: int = 0
    """Calls without an answer."""


@dataclass(frozen=True, slots=True, eq=False)
class NewSound:
    """One call of a stream: float32 (channels, n), n a multiple of a block, and the checkpoint that it continues."""

    stream: EnhancementStream
    samples: Samples
    before: Checkpoint


@dataclass(frozen=True, slots=True)
class EnhancedSound:
    """What a stream's new sound became, (channels, n), and sometimes the state after it."""

    samples: Samples
    checkpoint: Checkpoint | None


@dataclass(frozen=True, slots=True)
class EnhancedAnswer:
    """What a replica answers to a call: the sound, what the stream's share of the step took, in seconds, and the replica's
    id, to which all further calls of the stream go."""

    sound: EnhancedSound
    share_s: float
    replica: str


class EnhancementStreams:
    """The open streams of one engine. `step` runs on a thread of its own, all other methods on the event loop; a stream has
    one call at a time. `clock` is monotonic, in seconds."""

    def __init__(
        self, engine: StreamingEnhancement[Any], sample_rate: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._checkpoint_samples = int(CHECKPOINT_EVERY_S * sample_rate)
        self._open: dict[str, EnhancementStream] = {}

    def __len__(self) -> int:
        return len(self._open)

    def new_sound(self, stream_id: str, at: int, samples: Samples, resume: Checkpoint | None) -> NewSound:
        """A call of a stream whose samples begin at sample `at` of it. It opens a stream at its first sample, or where it
        resumes. Raises `MotetError`: unavailable (stream_lost) for a stream that is not here, or not at `at`; overloaded if
        too many are open."""
        self.close_forgotten()
        if resume is not None or at == 0:
            self._open_at(stream_id, resume or Checkpoint(0, self._engine.initial_state(len(samples))))
        stream = self._open.get(stream_id)
        if stream is None or stream.now.position != at:
            self.close(stream_id)
            cause = "The replica does not have this stream."
            raise fail("unavailable", cause, "Open the stream again.", code="stream_lost")
        stream.calls += 1
        return NewSound(stream, samples, stream.now)

    def answered(self, sound: NewSound) -> None:
        """A call has ended."""
        sound.stream.calls -= 1
        sound.stream.used_s = self._clock()

    def close(self, stream_id: str) -> None:
        """Forgets a stream; does nothing for an unknown one."""
        self._open.pop(stream_id, None)

    def close_forgotten(self) -> None:
        """Closes streams that had no call for `IDLE_S`."""
        since = self._clock() - IDLE_S
        for stream in [each for each in self._open.values() if each.used_s < since and not each.calls]:
            self.close(stream.id)

    def step(self, sounds: Sequence[NewSound]) -> list[EnhancedSound | Exception]:
        """Enhances the new sound of all streams; those of one length are one batch. One that fails does so alone. A step may
        be repeated: it depends on the sounds alone."""
        results: dict[int, EnhancedSound | Exception] = {}
        lengths: defaultdict[int, list[int]] = defaultdict(list)
        for number, sound in enumerate(sounds):
            lengths[sound.samples.shape[1]].append(number)
        for numbers in lengths.values():
            of = [sounds[number] for number in numbers]
            enhanced = self._engine.enhance([sound.samples for sound in of], [sound.before.state for sound in of])
            for number, sound, result in zip(numbers, of, enhanced, strict=True):
                results[number] = result if isinstance(result, Exception) else self._taken(sound, *result)
        return [results[number] for number in range(len(sounds))]

    def _taken(self, sound: NewSound, samples: Samples, state: Any) -> EnhancedSound:
        stream, after = sound.stream, Checkpoint(sound.before.position + samples.shape[1], state)
        stream.now = after
        if after.position - stream.checked < self._checkpoint_samples:
            return EnhancedSound(samples, None)
        stream.checked = after.position
        return EnhancedSound(samples, after)

    def _open_at(self, stream_id: str, start: Checkpoint) -> None:
        if len(self._open) >= MOST_STREAMS and stream_id not in self._open:
            cause = f"This replica enhances {MOST_STREAMS} streams already."
            raise fail("overloaded", cause, "Try again in a moment.", code="model_busy")
        self._open[stream_id] = EnhancementStream(stream_id, start, start.position, self._clock())
