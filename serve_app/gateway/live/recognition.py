"""One turn that is heard while it is spoken: sound to a replica, and what it hears back, at a bounded rate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deployments.engines.protocols import RecognitionOptions, Segment, Transcript
from deployments.engines.streaming import PartialTranscript
from deployments.errors import fail
from deployments.replica.live_streams import HeardStream
from deployments.text.sentences import joined
from serve_app.gateway.live.continuation import Continuation
from serve_app.gateway.live.pace import LivePace
from serve_app.gateway.live.settings import RealtimeSettings
from serve_app.gateway.routing.directory import ModelDirectory
from serve_app.gateway.routing.pinned_stream import PinnedStream

RATE = 16_000
MOST_KEPT_S = 120.0
"""Sound of a turn that is kept to be heard again. A replica that settles nothing for longer cannot be replaced."""


class LiveRecognition:
    """One turn at a replica. One call is under way at a time; sound that comes meanwhile goes with the next one."""

    def __init__(
        self,
        directory: ModelDirectory,
        model: str,
        options: RecognitionOptions,
        settings: RealtimeSettings,
        pace: LivePace,
        delay_s: float = 0.0,
    ) -> None:
        """`delay_s`: the seconds of new sound that a hearing waits for, at least, while the turn goes on."""
        self._directory = directory
        self._model = model
        self._options = options
        self._pace = pace
        self._delay_s = delay_s
        self._kept_samples = int(max(MOST_KEPT_S, settings.max_buffered_s) * RATE)
        self._sound = _KeptSound()
        self._heard_until = 0
        """What the replica has of the turn, in samples."""
        self._end: int | None = None
        self._hurry = self._closed = False
        self._changed = asyncio.Event()
        self._call: asyncio.Task[PartialTranscript] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._stream = PinnedStream(directory, model, "listen", self._begin_again)
        self._before = Continuation()
        self._latest: PartialTranscript | None = None

    @property
    def waiting_samples(self) -> int:
        """Samples of the turn that were pushed and not sent to a replica yet."""
        end = self._sound.end if self._end is None else min(self._end, self._sound.end)
        return max(0, end - self._heard_until)

    def push(self, samples: NDArray[np.int16]) -> None:
        """Appends mono int16 samples (n,) at 16 kHz."""
        self._sound.push(samples)
        self._sound.drop(self._sound.end - self._kept_samples)
        self._changed.set()

    def pause(self) -> None:
        """Speech seems to have ended: what came so far is heard at once."""
        self._hurry = True
        self._changed.set()

    def finish(self, samples: int) -> None:
        """The speech ended after the first `samples` of the turn."""
        self._end = samples
        self._changed.set()
        if self._call is not None and self._is_known():
            self._call.cancel()

    async def partials(self) -> AsyncGenerator[PartialTranscript]:
        """What is known of the turn, after each hearing. Ends after the last one, or after `close`. Raises `MotetError`."""
        with self._pace.turn(self._model):
            while not self._closed:
                if self._is_known():
                    self._leaving = asyncio.create_task(self._stream.close())
                    yield self._known()
                    return
                if not self._is_due():
                    self._changed.clear()
                    await self._changed.wait()
                    continue
                partial = await self._answered()
                if partial is None:
                    continue
                yield partial
                if partial.last:
                    return

    async def close(self) -> None:
        """Cancels the work at the replica. Safe to call twice."""
        self._closed = True
        self._changed.set()
        if self._call is not None:
            self._call.cancel()
        await self._stream.close()
        if self._leaving is not None:
            await self._leaving

    def _is_due(self) -> bool:
        if self._end is not None:
            return True
        wait_s = max(self._delay_s, self._pace.every_s(self._model))
        return self.waiting_samples > 0 and (self._hurry or self.waiting_samples >= wait_s * RATE)

    def _is_known(self) -> bool:
        """Whether the latest hearing covers all of the speech, so that its text is the last one."""
        asked = self._options.word_times or self._options.token_probabilities
        return (
            not asked
            and self._end is not None
            and self._latest is not None
            and self._latest.heard_samples >= min(self._end, self._sound.end)
        )

    def _known(self) -> PartialTranscript:
        assert self._latest is not None
        assert self._end is not None
        text = joined([self._latest.committed, self._latest.tentative])
        segments = (Segment(text, 0.0, self._end / RATE, 0.0, 0.0),) if text else ()
        transcript = Transcript(segments, self._latest.language)
        return replace(self._latest, committed=text, tentative="", last=True, transcript=transcript)

    async def _answered(self) -> PartialTranscript | None:
        """One hearing; None if it is not needed any more."""
        call = self._call = asyncio.create_task(self._hear())
        try:
            await asyncio.wait({call})
        finally:
            self._call = None
            call.cancel()
        if call.cancelled():
            return None
        self._latest = call.result()
        self._sound.drop(self._latest.settled_samples)
        return self._latest

    async def _hear(self) -> PartialTranscript:
        """Sends what came, and opens the stream again elsewhere if its replica is gone."""
        self._hurry = False
        return await self._stream.attempt(self._listen)

    async def _listen(self) -> PartialTranscript:
        base, until = self._before.samples, self._sound.end
        samples = self._sound.between(self._heard_until, until)
        end = None if self._end is None else max(0, self._end - base)
        call = self._options, self._heard_until - base, samples.tobytes(), end
        answer: HeardStream = await self._stream.ask(*call)
        self._heard_until = until
        self._pace.note(self._model, answer.step_s, answer.together, self._directory.models[self._model].replicas)
        if answer.partial.last:
            self._stream.ended()
        return self._before.applied(answer.partial)

    def _begin_again(self) -> None:
        """A replica gets the sound after what is settled."""
        self._before = Continuation.after(self._latest)
        self._heard_until = self._before.samples
        if self._heard_until < self._sound.start:
            raise fail("unavailable", f"The model {self._model!r} was lost in a long turn.", "Speak again.")


class _KeptSound:
    """The samples of a turn that may have to be sent again, by their position in it."""

    def __init__(self) -> None:
        self._blocks: list[NDArray[np.int16]] = []
        self.start = self.end = 0

    def push(self, samples: NDArray[np.int16]) -> None:
        """Appends samples."""
        self._blocks.append(np.asarray(samples, "<i2"))
        self.end += len(samples)

    def between(self, start: int, end: int) -> NDArray[np.int16]:
        """The samples from one position to another, which must be kept."""
        if len(self._blocks) > 1:
            self._blocks = [np.concatenate(self._blocks)]
        return self._blocks[0][start - self.start : end - self.start] if self._blocks else np.zeros(0, "<i2")

    def drop(self, until: int) -> None:
        """Forgets the samples before a position, a second or more of them at once."""
        if until - self.start >= RATE:
            kept = self.between(until, self.end).copy()
            self._blocks, self.start = [kept], until
