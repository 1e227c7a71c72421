"""The speech driver's way to the replicas of a model."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from typing import Protocol

from deployments.engines.protocols import AudioChunk, SpeechRequest
from deployments.replica.wire import PackedChunk, unpack
from serve_app.gateway.request_timing import RequestTiming
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.routing.directory import ModelDirectory


class Listener(Protocol):
    """Whoever plays the sound (`PlaybackBuffer`)."""

    @property
    def lasts_seconds(self) -> float:
        """How long the listener's sound lasts from now."""


@dataclass(slots=True)
class ReplicaClient:
    """Calls the replicas of one model for one stream. See `SpeechClient`.

    With a `ticket`, admission learns when the stream waits for sound and how much was made. With a `listener`, the replica
    learns how urgent each request is. `speed` is the one that the client asked for.
    """

    directory: ModelDirectory
    model: str
    timeline: RequestTiming
    speed: float
    ticket: Ticket | None = None
    listener: Listener | None = None
    placement: str | None = None
    """Where the latest chunk was made."""

    def open(self, request: SpeechRequest) -> ReplicaCall:
        """See `SpeechClient`."""
        if self.listener:
            request = replace(request, lasts_seconds=self.listener.lasts_seconds)
        return ReplicaCall(self, request, self.directory.stream(self.model, "speak", request, ticket=self.ticket))

    def count(self, packed: PackedChunk, chunk: AudioChunk, request: SpeechRequest) -> None:
        """A chunk arrived."""
        self.timeline.add("queue", packed.waited_s)
        self.timeline.add("infer", packed.step_s)
        if self.ticket:
            self.placement = self.ticket.placement
            self.ticket.record_made(chunk.seconds / self.speed * request.speed)  # after the time-stretch
            self.ticket.stop_waiting()


@dataclass(frozen=True, slots=True)
class ReplicaCall:
    """One request at a replica. See `SpeechCall`."""

    client: ReplicaClient
    request: SpeechRequest
    answers: AsyncGenerator[PackedChunk]

    async def step(self) -> AudioChunk | None:
        """See `SpeechCall`."""
        if self.client.ticket:
            self.client.ticket.start_waiting()
        packed = await anext(self.answers, None)
        if packed is None:
            return None
        chunk = unpack(packed)
        self.client.count(packed, chunk, self.request)
        return chunk

    async def close(self) -> None:
        """See `SpeechCall`. Cancels the call if it has not ended."""
        await self.answers.aclose()
