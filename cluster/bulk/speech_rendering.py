"""Speech rows through an engine: many at once, each with an outcome of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any

from cluster.bulk.job import BulkSpeechOrder, seed_of
from cluster.bulk.plan import WorkItem
from cluster.bulk.results import Outcome, RowResult, Timing, digest_of, rounded_timing
from cluster.bulk.sound import SoundBytes
from deployments.engines.limits import LimitsStreams, StepsConcurrently
from deployments.engines.protocols import (
    FinishReason,
    SpeechEngine,
    SpeechRequest,
    first_reason,
)
from deployments.errors import as_failure, fail
from deployments.tasks.in_process_speech import BatchedClient
from deployments.tasks.piece_checks import PieceChecks, PieceHearing
from deployments.tasks.piece_preparation import PieceMaker
from deployments.tasks.piece_quality import QualitySummary
from deployments.tasks.speech import speak
from deployments.tasks.spoken_words import WordRecorder
from deployments.tasks.voice_choice import choose_voice
from deployments.text.lexicon import Lexicon
from deployments.text.piece import Piece
from deployments.text.sources import WholeText


class SpeechRenderer:
    """Speaks up to `width` rows at once; when one ends, the next takes its place in the engine's batch."""

    def __init__(
        self, engine: SpeechEngine[Any], order: BulkSpeechOrder, width: int, hearing: PieceHearing | None = None
    ) -> None:
        self._engine = engine
        self._order = order
        self._hearing = hearing
        places = (engine.max_streams,) if isinstance(engine, LimitsStreams) else ()
        lanes = (engine.concurrency,) if isinstance(engine, StepsConcurrently) else ()
        self._lexicons = (Lexicon(order.job_lexicon), Lexicon(order.lexicon))
        self._width = min([width, *places, *lanes])
        if order.word_times and not engine.traits.word_times:
            cause = "This model does not know when it speaks each word."
            remedy = "Leave the times of words out, or use a live service that has a transcription model as well."
            raise fail("unsupported", cause, remedy, param="word_times", code="word_timestamps_not_supported")
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
        voice = self._voice if item.voice is None else choose_voice(item.voice, traits, order.voice_aliases)
        request = SpeechRequest((), voice, order.speed, seed_of(item.key))
        pieces = self._pieces(item, voice)
        spans, words = dict[int, Timing](), WordRecorder()
        checks = PieceChecks(order.quality, traits, hearing=self._hearing)
        reason: FinishReason = "stop"
        loudness = order.loudness_lufs
        driver = speak(request, traits, checks.around(client), text=WholeText(pieces), loudness_lufs=loudness)
        with closing(SoundBytes(order.form, traits.sample_rate, 1, order.sample_rate)) as sound:
            async with aclosing(driver) as chunks:
                async for chunk in chunks:
                    before = spans.get(chunk.index)
                    start = sound.seconds if before is None else before.start
                    words.add(chunk)
                    sound.write(chunk.samples)
                    spans[chunk.index] = Timing(start, sound.seconds, pieces[chunk.index].text)
                    reason = first_reason(reason, chunk.finish_reason)
            seconds, data = sound.seconds, sound.finish()
        return RowResult(
            seconds=seconds,
            text=item.text,
            audio=data,
            format=order.form,
            sample_rate=sound.sample_rate,
            sha256=digest_of(data),
            voice=voice,
            timings=tuple(spans[index] for index in sorted(spans)),
            words=_timings_of(words) if order.word_times else None,
            finish_reason=reason,
            quality=QualitySummary.of(checks.found).facts(with_heard=True) if checks.found else None,
        )

    def _pieces(self, item: WorkItem, voice: str) -> tuple[Piece, ...]:
        order = self._order
        maker = PieceMaker(self._engine.traits, voice, self._lexicons, order.normalize)
        if item.input_type == "ssml":
            return maker.of_ssml(item.text, order.pieces, order.voice_aliases).pieces
        return maker.of_text(item.text, order.pieces).pieces


def _timings_of(words: WordRecorder) -> tuple[Timing, ...]:
    return tuple(rounded_timing(word.start, word.end, word.text) for word in words.words)
