"""The deployment of a speech engine: it opens utterances, steps them through the step gate, and closes them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from deployments.audio.test_tone import hum
from deployments.engines.forgotten_voices import KeepsVoices
from deployments.engines.limits import LimitsStepTime, LimitsStreams, StepsConcurrently
from deployments.engines.protocols import (
    AudioChunk,
    SpeechEngine,
    SpeechRequest,
    SpeechTraits,
    VoiceReference,
)
from deployments.errors import Failure
from deployments.replica.base import ModelReplica
from deployments.replica.call_trace import CallTrace
from deployments.replica.error_log import logged_failure
from deployments.replica.load import Work
from deployments.replica.metrics import SpeechMetrics, StreamPace
from deployments.replica.step_scheduling import ListenerDeadline, StepRequest
from deployments.replica.wire import PackedChunk, pack
from deployments.tasks.engine_calls import one_for_each
from deployments.tasks.speech import predicted_seconds
from deployments.tracing.context import TraceContext

WARM_UP_CLIP_SECONDS = 5.0
"""The length of the clip with which a model without voices warms up."""


@dataclass(slots=True, eq=False)
class Stream:
    """A request and, from its first step on, its utterance in the engine."""

    request: SpeechRequest
    utterance: Any = None
    trace: CallTrace | None = None
    in_progress: bool = False
    """Whether the engine may be working on it beside its steps, so that other streams cannot have its place before."""

    @property
    def finished(self) -> bool:
        """Whether all of the request was spoken."""
        return self.utterance is not None and bool(self.utterance.finished)


class Synthesizer(ModelReplica):
    """A replica of a speech model. Many streams share the steps of its one engine."""

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
        """How many utterances are open."""
        return self._metrics.open_streams

    async def forget_voice(self, id: str) -> None:
        """Drops what the engine computed from an uploaded clip, between its steps."""
        if isinstance(self._engine, KeepsVoices):
            await self.thread.run(self._engine.forget_voice, id)

    async def speak(
        self, request: SpeechRequest, trace: TraceContext | None = None
    ) -> AsyncIterator[PackedChunk | Failure]:
        """The sound of a request, chunk by chunk, in order. If something fails, the last item is a `Failure`. `trace` is
        the span of the call at its caller.

        Raises `MotetError` (overloaded) before the first chunk if memory is short: another replica may have some. Pending
        chunks are not sent.
        """
        await self.memory_guard.ensure()
        listener = ListenerDeadline(time.monotonic() + self._due_in_s(request), plays=request.buffered_seconds > 0)
        stream = Stream(request)
        self._metrics.opened(1)
        made = sent = waited_s = took_s = 0.0
        came = time.monotonic()
        pace = StreamPace(self._metrics)
        try:
            async with self._under_way(stream, trace) as work:
                while not stream.finished:
                    stepped = await self._stepper.step(stream, self._step_request(stream, listener))
                    chunk = stepped.result
                    stream.in_progress = chunk.pending and isinstance(self._engine, StepsConcurrently)
                    made += chunk.seconds
                    listener.add(chunk.seconds, time.monotonic())
                    self._metrics.made(chunk.seconds)
                    work.made(chunk.seconds)
                    pace.step(chunk)
                    waited_s, took_s = waited_s + stepped.waited_s, took_s + stepped.took_s
                    if chunk.pending:
                        continue
                    if not sent and not request.buffered_seconds:
                        self.load.first_sound(time.monotonic() - came)
                    yield pack(chunk, waited_s, took_s)
                    waited_s = took_s = 0.0
                    sent = made
        except Exception as error:
            yield logged_failure(error, self.model)
        finally:
            self._metrics.opened(-1)
            pace.ended()
            self._metrics.wasted(made - sent)

    @asynccontextmanager
    async def _under_way(self, stream: Stream, trace: TraceContext | None) -> AsyncIterator[Work]:
        """The work of a stream, once the engine has a place for it. Requests that wait for a place do not delay the steps of
        streams that have one."""
        with (
            self.load.work(predicted_seconds(stream.request)) as work,
            self.traced("speak", trace) as stream.trace,
        ):
            async with self._places:
                try:
                    with self._stepper.gate.stream():
                        yield work
                finally:
                    # Before the place is free, so that the next stream opens after this one is closed. Without an await: a
                    # cancelled stream frees its slot even if it is cancelled again meanwhile.
                    self.thread.submit(self._close, stream)

    def _due_in_s(self, request: SpeechRequest) -> float:
        """How soon the next sound is due. A listener without sound comes after those who are about to run dry, and
        before all others."""
        return request.buffered_seconds or self._stepper.gate.settings.urgent_below_ms / 1000

    def _step_request(self, stream: Stream, listener: ListenerDeadline) -> StepRequest:
        due_s = -math.inf if stream.in_progress else listener.deadline_s
        return StepRequest(due_s, self._cost(stream), isinstance(self._engine, LimitsStepTime), trace=stream.trace)

    def _cost(self, stream: Stream) -> float:
        """The cost of the stream's next step, in the engine's unit."""
        if stream.utterance is None:
            return self._engine.first_cost(stream.request)
        return self._engine.cost(stream.utterance)

    def _advance(self, streams: Sequence[Stream]) -> list[AudioChunk | Exception]:
        """Opens new streams and takes one step with all. Runs on the engine's thread."""
        refused = [self._open(stream) for stream in streams]
        open_ones = [stream.utterance for stream, refusal in zip(streams, refused, strict=True) if refusal is None]
        chunks = iter(one_for_each(self._engine.step(open_ones), open_ones) if open_ones else [])
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
        """Speaks one word, like a clip if the model has no voice of its own."""
        traits = self._engine.traits
        rate = traits.sample_rate
        clip = None if traits.default_voice else VoiceReference("warm-up", hum(rate, WARM_UP_CLIP_SECONDS), rate)
        voice = clip.id if clip else traits.default_voice
        async for chunk in self.speak(SpeechRequest(("Ready.",), voice, reference=clip)):
            if isinstance(chunk, Failure):
                raise RuntimeError(f"The warm-up failed: {chunk.message}")
