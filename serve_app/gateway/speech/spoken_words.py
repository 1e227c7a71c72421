"""The words of one stream of speech: those that its model knows, and those that a recogniser finds in its pieces."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from deployments.engines.protocols import AudioChunk, Samples, SpokenWord
from deployments.errors import MotetError
from deployments.tasks.piece_windows import windows_of_piece
from deployments.tasks.word_alignment import aligned_words
from serve_app.gateway.routing.directory import ModelDirectory
from serve_app.gateway.speech.models import AligningModel
from serve_app.gateway.speech.plan import SpeechPlan
from serve_app.gateway.speech.source_map import SourcePosition, SourceSpan
from serve_app.gateway.speech.stream_words import Source, StreamWords

logger = logging.getLogger(__name__)

LAST_WORDS_S = 10.0
"""How long the end of a stream waits for words that a recogniser has not found yet."""


@dataclass(slots=True)
class _HeardPiece:
    """The sound of a piece so far, and whether its model gave words."""

    samples: list[Samples] = field(default_factory=list)
    has_words: bool = False


class SpokenWords:
    """Collects the words of a plan's stream. Call `close` at its end."""

    def __init__(self, plan: SpeechPlan, directory: ModelDirectory, resumed_samples: int) -> None:
        self._plan = plan
        self._directory = directory
        self._placed = StreamWords(plan.traits.sample_rate, resumed_samples)
        self._pieces: dict[Source, _HeardPiece] = {}
        self._searches: set[asyncio.Task[None]] = set()

    def add(self, chunk: AudioChunk, fallback_from: int | None) -> None:
        """Takes a chunk of the driver and, if the fallback voice speaks it, the piece with which that began."""
        source = chunk.index, fallback_from
        self._placed.add(source, chunk.words)
        if self._plan.aligning is None:
            return
        piece = self._pieces.setdefault(source, _HeardPiece())
        piece.has_words = piece.has_words or bool(chunk.words)
        piece.samples.append(chunk.samples)
        if chunk.piece_over:
            del self._pieces[source]
            if not piece.has_words and any(map(len, piece.samples)):
                self._search(source, np.concatenate(piece.samples), chunk.sample_rate, self._plan.aligning)

    def passed(self, spans: Sequence[SourceSpan], reached: int) -> None:
        """See `StreamWords`."""
        self._placed.passed(spans, reached)

    def take(self) -> list[tuple[int, SpokenWord]]:
        """See `StreamWords`."""
        return self._placed.take()

    async def finish(self) -> None:
        """Waits for the words that are searched for, up to `LAST_WORDS_S`."""
        if self._searches:
            await asyncio.wait(self._searches, timeout=LAST_WORDS_S)

    def close(self) -> None:
        """Cancels what is under way."""
        for search in self._searches:
            search.cancel()

    def _search(self, source: Source, samples: Samples, sample_rate: int, aligning: AligningModel) -> None:
        self._placed.await_words(source, awaits=True)
        search = asyncio.create_task(self._find(source, samples, sample_rate, aligning))
        self._searches.add(search)
        search.add_done_callback(self._searches.discard)
        search.add_done_callback(lambda _: self._placed.await_words(source, awaits=False))

    async def _find(self, source: Source, samples: Samples, sample_rate: int, aligning: AligningModel) -> None:
        position = SourcePosition(source[0], 0, source[1])
        written = self._plan.piece_at(position).text
        try:
            windows = await asyncio.to_thread(
                windows_of_piece,
                samples,
                sample_rate,
                aligning.traits,
                self._plan.language_at(position),
                word_times=True,
            )
            calls = (self._directory.call(aligning.model, "transcribe", window, 0) for window in windows)
            words = aligned_words(written, windows, await asyncio.gather(*calls), aligning.traits.sample_rate)
        except MotetError as error:
            logger.warning("The words of a piece have no times: %s", error)
            return
        self._placed.add(source, words)
