"""Speech rows through an engine: many at once, each with an outcome of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any

from cluster.bulk.job import BulkSpeechOrder, seed_of
from cluster.bulk.plan import WorkItem
from cluster.bulk.results import Outcome, RowResult, Timing, digest_of
from cluster.bulk.sound import SoundBytes
from deployments.engines.protocols import (
    FinishReason,
    LimitsStreams,
    SpeechEngine,
    SpeechRequest,
    StepsConcurrently,
    first_reason,
)
from deployments.errors import as_failure
from deployments.tasks.in_process_speech import BatchedClient
from deployments.tasks.speech import no_words, speak
from deployments.tasks.voice_choice import choose_voice, mark_speakers
from deployments.text.segmentation import cut_into_pieces


class SpeechRenderer:
    """Speaks up to `width` rows at once; when one ends, the next takes its place in the engine's batch."""

    def __init__(self, engine: SpeechEngine[Any], order: BulkSpeechOrder, width: int) -> None:
        self._engine = engine
        self._order = order
        places = (engine.max_streams,) if isinstance(engine, LimitsStreams) else ()
        lanes = (engine.concurrency,) if isinstance(engine, StepsConcurrently) else ()
        self._width = min([width, *places, *lanes])
        self._voice = choose_voice(order.voice, engine.traits, order.voice_aliases)

    def render(self, items: Sequence[WorkItem], recordings: Sequence[bytes | None]) -> list[Outcome]:
        """See `Renderer`."""
        outcomes = asyncio.run(self._all(items))
        return [outcomes[at] for at in range(len(items))]

    async def _all(self, items: Sequence[WorkItem]) -> dict[int, Outcome]:
        client = BatchedClient(self._engine)
        waiting, outcomes = iter(enumerate(items)), dict[int, Outcome]()
        async with asyncio.TaskGroup() as rows:
            for _ in range(self._width):
                rows.create_task(self._one_after_another(waiting, client, outcomes))
        return outcomes

    async def _one_after_another(
        self, waiting: Iterator[tuple[int, WorkItem]], client: BatchedClient[Any], outcomes: dict[int, Outcome]
    ) -> None:
        for at, item in waiting:
            try:
                outcomes[at] = [await self._spoken(item, client)]
            except Exception as error:
                outcomes[at] = as_failure(error)

    async def _spoken(self, item: WorkItem, client: BatchedClient[Any]) -> RowResult:
        order, traits = self._order, self._engine.traits
        request = self._request(item)
        spans: dict[int, Timing] = {}
        reason: FinishReason = "stop"
        with closing(SoundBytes(order.form, traits.sample_rate, 1)) as sound:
            async with aclosing(speak(request, traits, client)) as chunks:
                async for chunk in chunks:
                    before = spans.get(chunk.index)
                    start = sound.seconds if before is None else before.start
                    sound.write(chunk.samples)
                    spans[chunk.index] = Timing(start, sound.seconds, chunk.text)
                    reason = first_reason(reason, chunk.finish_reason)
            seconds, data = sound.seconds, sound.finish()
        return RowResult(
            seconds=seconds,
            text=item.text,
            audio=data,
            format=order.form,
            sample_rate=traits.sample_rate,
            sha256=digest_of(data),
            voice=request.voice,
            timings=tuple(spans[index] for index in sorted(spans)),
            finish_reason=reason,
        )

    def _request(self, item: WorkItem) -> SpeechRequest:
        order, traits = self._order, self._engine.traits
        voice = self._voice if item.voice is None else choose_voice(item.voice, traits, order.voice_aliases)
        pieces = cut_into_pieces(item.text, order.pieces)
        if not pieces:
            raise no_words()
        return SpeechRequest(mark_speakers(pieces, traits, voice), voice, order.speed, seed_of(item.key))
