"""The deployment around a speech engine: opens utterances, steps them through the gate, and closes them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from deployments.audio.test_tone import hum
from deployments.engines.protocols import (
    AudioChunk,
    LimitsStepTime,
    LimitsStreams,
    SpeechEngine,
    SpeechRequest,
    SpeechTraits,
    StepsConcurrently,
    VoiceReference,
)
from deployments.errors import Failure
from deployments.replica.base import ModelReplica
from deployments.replica.error_log import logged_failure
from deployments.replica.load import Work
from deployments.replica.metrics import SpeechMetrics, StreamPace
from deployments.replica.step_scheduling import Playback, StepRequest
from deployments.replica.wire import PackedChunk, pack
from deployments.tasks.speech import predicted_seconds

CLIP_SECONDS = 5.0
"""Of the clip with which a model without voices warms up."""


@dataclass(slots=True, eq=False)
class Stream:
    """A request and, once its first step has opened it, the engine's state of it."""

    request: SpeechRequest
    utterance: Any = None
    on_lane: bool = False
    """Whether a lane of the engine may be at work on it: the others cannot have that one before."""

    @property
    def finished(self) -> bool:
        """True when everything was said."""
        return self.utterance is not None and bool(self.utterance.finished)


class Synthesizer(ModelReplica):
    """Speaks. One replica holds one engine; many streams share its steps."""

    def prepare(self, engine: SpeechEngine[Any]) -> None:
        """Takes the engine."""
        self._engine = engine
        self._places = asyncio.Semaphore(engine.max_streams) if isinstance(engine, LimitsStreams) else nullcontext()
        self._stepper = self.stepper(
            self._advance, engine.concurrency if isinstance(engine, StepsConcurrently) else None
        )
        self._metrics = SpeechMetrics(self.model)

    async def traits(self) -> SpeechTraits:
        """What the model can do."""
        return self._engine.traits

    def open_streams(self) -> int:
        """How many utterances are under way."""
        return self._metrics.open_streams

    async def speak(self, request: SpeechRequest) -> AsyncIterator[PackedChunk | Failure]:
        """A chunk at a time, in order; a `Failure` is the last item when something goes wrong.

        Raises `MotetError` (overloaded) before the first when there is no room: another replica may have some. A
        pending chunk brings nothing, and stays here.
        """
        await self.memory_guard.ensure()
        playback = Playback(time.monotonic() + self._lasts_seconds(request), plays=request.lasts_seconds > 0)
        stream = Stream(request)
        self._metrics.opened(1)
        made = heard = waited_s = took_s = 0.0
        came = time.monotonic()
        pace = StreamPace(self._metrics)
        try:
            async with self._under_way(request) as work:
                while not stream.finished:
                    stepped = await self._stepper.step(stream, self._wish(stream, playback))
                    chunk = stepped.result
                    stream.on_lane = chunk.pending and isinstance(self._engine, StepsConcurrently)
                    made += chunk.seconds
                    playback.add(chunk.seconds, time.monotonic())
                    self._metrics.made(chunk.seconds)
                    work.made(chunk.seconds)
                    pace.step(chunk)
                    waited_s, took_s = waited_s + stepped.waited_s, took_s + stepped.took_s
                    if chunk.pending:
                        continue
                    if not heard and not request.lasts_seconds:
                        self.load.first_sound(time.monotonic() - came)
                    yield pack(chunk, waited_s, took_s)
                    waited_s = took_s = 0.0
                    heard = made
        except Exception as error:
            yield logged_failure(error, self.model)
        finally:
            self._metrics.opened(-1)
            pace.ended()
            self._metrics.wasted(made - heard)
            # Without an await: a cancelled stream must free its slot even while it is being torn down.
            self.thread.submit(self._close, stream)

    @asynccontextmanager
    async def _under_way(self, request: SpeechRequest) -> AsyncIterator[Work]:
        """The work of a request, from when the engine has a place for its stream. Until then it waits as those do that wait
        for a step: a stream that has begun must not lose its place to a newcomer."""
        with self.load.work(predicted_seconds(request)) as work:
            async with self._places:
                with self._stepper.gate.stream():
                    yield work

    def _lasts_seconds(self, request: SpeechRequest) -> float:
        """A listener without sound comes after those who are about to lose theirs, and before all others."""
        return request.lasts_seconds or self._stepper.gate.settings.urgent_below_ms / 1000

    def _wish(self, stream: Stream, playback: Playback) -> StepRequest:
        due_s = -math.inf if stream.on_lane else playback.dry_s
        return StepRequest(due_s, self._cost(stream), isinstance(self._engine, LimitsStepTime))

    def _cost(self, stream: Stream) -> float:
        """The length of the stream's next step."""
        if stream.utterance is None:
            return self._engine.first_cost(stream.request)
        return self._engine.cost(stream.utterance)

    def _advance(self, streams: Sequence[Stream]) -> list[AudioChunk | Exception]:
        """Opens those that are new, and takes the step with all. Runs on the engine's thread."""
        refused = [self._open(stream) for stream in streams]
        open_ones = [stream.utterance for stream, refusal in zip(streams, refused, strict=True) if refusal is None]
        chunks = iter(self._engine.step(open_ones) if open_ones else [])
        return [next(chunks) if refusal is None else refusal for refusal in refused]

    def _open(self, stream: Stream) -> Exception | None:
        try:
            if stream.utterance is None:
                stream.utterance = self._engine.open(stream.request)
        except Exception as error:
            return error
        return None

    def _close(self, stream: Stream) -> None:
        if stream.utterance is not None:
            self._engine.close(stream.utterance)

    async def answer_once(self) -> None:
        """Says one word, like a clip where the model has no voice of its own."""
        traits = self._engine.traits
        rate = traits.sample_rate
        clip = None if traits.default_voice else VoiceReference("warm-up", hum(rate, CLIP_SECONDS), rate)
        voice = clip.id if clip else traits.default_voice
        async for chunk in self.speak(SpeechRequest(("Ready.",), voice, reference=clip)):
            if isinstance(chunk, Failure):
                raise RuntimeError(f"The warm-up failed: {chunk.message}")
