"""The streams that a replica hears while they are spoken: found by id, bounded in number, closed when they are forgotten."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from deployments.audio.pcm import to_float
from deployments.engines.protocols import RecognitionOptions, Samples
from deployments.engines.streaming import PartialTranscript, StreamingRecognition
from deployments.errors import fail

MOST_STREAMS = 128
"""Open streams of a replica. It bounds the sound that a replica keeps."""
IDLE_S = 30.0
"""A stream without a call for this long is closed: its client, or the gateway, is gone."""


@dataclass(slots=True, eq=False)
class LiveStream:
    """A stream. `state` is the engine's, from its first step on; `position` counts the samples that the engine has."""

    id: str
    options: RecognitionOptions
    used_s: float
    state: Any = None
    position: int = 0
    calls: int = 0
    """Calls without an answer."""
    closed: bool = False


@dataclass(slots=True, eq=False)
class Hearing:
    """One call of a stream: its new samples, and where the speech ended if it has."""

    stream: LiveStream
    samples: Samples
    finish_at: int | None
    pushed: bool = False


@dataclass(frozen=True, slots=True)
class HeardStream:
    """What a replica answers to a call of a stream: what is known of it, how long the step took, in seconds, how many streams
    shared it, and the replica's id, to which all further calls of the stream go."""

    partial: PartialTranscript
    step_s: float
    together: int
    replica: str


class RunsCalls(Protocol):
    """The engine's thread."""

    def submit(self, function: Callable[[LiveStream], object], stream: LiveStream, /) -> None:
        """Queues a call and returns at once."""


class LiveStreams:
    """The open streams of one engine. `step` runs on the engine's thread, all other methods on the event loop. `clock` is
    monotonic, in seconds."""

    def __init__(
        self, engine: StreamingRecognition[Any], thread: RunsCalls, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._thread = thread
        self._clock = clock
        self._open: dict[str, LiveStream] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, stream_id: str) -> bool:
        return stream_id in self._open

    def hearing(
        self, stream_id: str, options: RecognitionOptions, at: int, samples: bytes, finish_at: int | None
    ) -> Hearing:
        """A call of a stream whose samples, int16 at 16 kHz, begin at sample `at` of it. A stream opens with its first
        sample. Raises `MotetError`: unavailable (stream_lost) for a stream that is not here, or of which this replica does
        not have exactly the samples before; overloaded if too many are open."""
        self.close_forgotten()
        stream = self._open.get(stream_id)
        if at == 0 and stream is None:
            stream = self._opened(stream_id, options)
        if stream is None or stream.position != at:
            self.close(stream_id)
            raise fail(
                "unavailable", "The replica does not have this stream.", "Open the stream again.", code="stream_lost"
            )
        stream.calls += 1
        return Hearing(stream, to_float(np.frombuffer(samples, "<i2")), finish_at)

    def answered(self, hearing: Hearing) -> None:
        """A call has ended."""
        hearing.stream.calls -= 1
        hearing.stream.used_s = self._clock()

    def _opened(self, stream_id: str, options: RecognitionOptions) -> LiveStream:
        if len(self._open) >= MOST_STREAMS:
            cause = f"This replica hears {MOST_STREAMS} live streams already."
            raise fail("overloaded", cause, "Try again in a moment.", code="model_busy")
        stream = self._open[stream_id] = LiveStream(stream_id, options, self._clock())
        return stream

    def close(self, stream_id: str) -> None:
        """Closes a stream, whatever it is doing; does nothing for an unknown one."""
        stream = self._open.pop(stream_id, None)
        if stream is not None:
            stream.closed = True
            self._thread.submit(self._close, stream)

    def close_forgotten(self) -> None:
        """Closes streams that had no call for `IDLE_S`."""
        since = self._clock() - IDLE_S
        for stream_id in [stream.id for stream in self._open.values() if stream.used_s < since and not stream.calls]:
            self.close(stream_id)

    def step(self, hearings: Sequence[Hearing]) -> list[PartialTranscript | Exception]:
        """Pushes the new samples and takes one step with all streams, as one batch. One that fails does so alone."""
        refused = [self._push(hearing) for hearing in hearings]
        states = [hearing.stream.state for hearing, refusal in zip(hearings, refused, strict=True) if refusal is None]
        results = iter(self._engine.step(states) if states else [])
        return [next(results) if refusal is None else refusal for refusal in refused]

    def _push(self, hearing: Hearing) -> Exception | None:
        """Gives the engine the samples, once: a step that failed as a whole is repeated in halves."""
        stream = hearing.stream
        if stream.closed:
            return fail("unavailable", "The stream was closed.", "Open another one.", code="stream_lost")
        if hearing.pushed:
            return None
        try:
            if stream.state is None:
                stream.state = self._engine.open(stream.options)
            if len(hearing.samples):
                self._engine.push(stream.state, hearing.samples)
            if hearing.finish_at is not None:
                self._engine.finish(stream.state, hearing.finish_at)
        except Exception as error:
            return error
        stream.position += len(hearing.samples)
        hearing.pushed = True
        return None

    def _close(self, stream: LiveStream) -> None:
        if stream.state is not None:
            self._engine.close(stream.state)
