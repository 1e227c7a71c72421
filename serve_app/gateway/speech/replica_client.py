"""The speech driver's way to the replicas of a model."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Protocol

from deployments.engines.protocols import AudioChunk, SpeechRequest
from deployments.replica.wire import PackedChunk, unpack
from serve_app.gateway.jobs.context import JOB, LATE_S
from serve_app.gateway.request_timing import RequestTiming
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.routing.directory import ModelDirectory


class Listener(Protocol):
    """Whoever plays the sound (`PlaybackBuffer`)."""

    @property
    def buffered_seconds(self) -> float:
        """Seconds of sound that the listener has not played yet."""


@dataclass(slots=True)
class ReplicaClient:
    """Calls the replicas of one model for one stream. See `SpeechClient`.

    With a `ticket`, admission learns when the stream waits for sound and how much was made. With a `listener`, the replica
    learns how urgent each request is.
    """

    directory: ModelDirectory
    model: str
    timing: RequestTiming
    ticket: Ticket | None = None
    listener: Listener | None = None
    placement: str | None = None
    """Where the latest chunk was made."""

    def open(self, request: SpeechRequest, tempo: float) -> ReplicaCall:
        """See `SpeechClient`."""
        answers = self.directory.stream(self.model, "speak", self._urgent(request), ticket=self.ticket)
        return ReplicaCall(self, tempo, answers)

    def open_elsewhere(self, request: SpeechRequest, tempo: float) -> ReplicaCall:
        """See `OpensElsewhere`. The rest of the stream stays where it was."""
        answers = self.directory.stream(self.model, "speak", self._urgent(request), besides=self.placement)
        return ReplicaCall(self, tempo, answers)

    def _urgent(self, request: SpeechRequest) -> SpeechRequest:
        if JOB.get() is not None:  # it counts as a listener who has sound for a while
            return replace(request, buffered_seconds=LATE_S)
        return replace(request, buffered_seconds=self.listener.buffered_seconds) if self.listener else request

    def count(self, packed: PackedChunk, chunk: AudioChunk, tempo: float) -> None:
        """A chunk arrived."""
        self.timing.add("queue", packed.waited_s)
        self.timing.add("infer", packed.step_s)
        if self.ticket:
            self.placement = self.ticket.placement
            self.ticket.record_made(chunk.seconds / tempo)
            self.ticket.stop_waiting()


@dataclass(frozen=True, slots=True)
class ReplicaCall:
    """One request at a replica. See `SpeechCall`."""

    client: ReplicaClient
    tempo: float
    answers: AsyncGenerator[PackedChunk]

    async def step(self) -> AudioChunk | None:
        """See `SpeechCall`."""
        if self.client.ticket:
            self.client.ticket.start_waiting()
        packed = await anext(self.answers, None)
        if packed is None:
            return None
        chunk = unpack(packed)
        self.client.count(packed, chunk, self.tempo)
        return chunk

    async def close(self) -> None:
        """See `SpeechCall`. Cancels the call if it has not ended."""
        await self.answers.aclose()
