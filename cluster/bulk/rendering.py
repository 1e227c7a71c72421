"""Batches through an engine: many rows at once, each with an outcome of its own. Knows nothing of clusters or files."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, Protocol

from cluster.bulk.job import BulkJob, SeparationOrder, TranscriptionOrder
from cluster.bulk.plan import WorkItem
from cluster.bulk.results import MILLI_DIGITS, Outcome, Result, digest_of, heard_timing
from cluster.bulk.sound import SoundBytes
from cluster.bulk.speech_rendering import SpeechRenderer
from deployments.audio.chunking import PlannedChunk, plan_chunks
from deployments.audio.decode import AudioDecoder
from deployments.audio.overlap_add import OverlapAdder
from deployments.audio.resample import rate_for
from deployments.engines.protocols import (
    Chunk,
    RecognitionEngine,
    RecognitionOptions,
    SeparationEngine,
    Stems,
    Transcript,
    Window,
)
from deployments.errors import Failure, as_failure, fail
from deployments.replica.step_gate import advance_or_halve
from deployments.tasks.separation import chunks_of
from deployments.tasks.transcription import windows_of

TRIED_AGAIN = ("engine", "unavailable", "timeout")
"""Kinds of failure that another try may not meet."""


class Renderer(Protocol):
    """One engine and one order. Raises `MotetError` when it is made for an order that no row could be made with."""

    def render(self, items: Sequence[WorkItem], recordings: Sequence[bytes | None]) -> list[Outcome]:
        """What becomes of each item."""


def renderer_of(job: BulkJob, engine: Any) -> Renderer:
    """The renderer for a job's order."""
    order, width = job.order, job.model.steps.max_batch_size
    inner = _RENDERERS[order.task](engine, order, width)
    return _Again(inner, job.bulk.retries)


class _Again:
    """Tries what failed once more, alone."""

    def __init__(self, inner: Renderer, retries: int) -> None:
        self._inner = inner
        self._retries = retries

    def render(self, items: Sequence[WorkItem], recordings: Sequence[bytes | None]) -> list[Outcome]:
        outcomes = self._inner.render(items, recordings)
        for at, outcome in enumerate(outcomes):
            for _ in range(self._retries):
                if not (isinstance(outcome, Failure) and outcome.kind in TRIED_AGAIN):
                    break
                outcome = self._inner.render([items[at]], [recordings[at]])[0]
            outcomes[at] = outcome
        return outcomes


# --- Transcription


class TranscriptionRenderer:
    """Windows of all recordings of a batch share the engine's batches."""

    def __init__(self, engine: RecognitionEngine, order: TranscriptionOrder, width: int) -> None:
        self._engine = engine
        self._order = order
        self._width = width
        self._rate = engine.traits.sample_rate
        self._options = RecognitionOptions(order.language, order.prompt, word_times=order.word_times)

    def render(self, items: Sequence[WorkItem], recordings: Sequence[bytes | None]) -> list[Outcome]:
        """See `Renderer`."""
        heard: dict[int, list[tuple[Window, Transcript]]] = {at: [] for at in range(len(items))}
        failures: dict[int, Failure] = {}
        windows = self._windows(recordings, failures)
        while batch := list(islice(windows, self._width)):
            results = advance_or_halve(self._engine.transcribe, [window for _, window in batch])
            for (at, window), result in zip(batch, results, strict=True):
                if isinstance(result, Exception):
                    failures.setdefault(at, as_failure(result))
                else:
                    heard[at].append((window, result))
        return [failures.get(at) or [self._result(item, heard[at])] for at, item in enumerate(items)]

    def _windows(
        self, recordings: Sequence[bytes | None], failures: dict[int, Failure]
    ) -> Iterator[tuple[int, Window]]:
        for at, recording in enumerate(recordings):
            assert recording is not None
            try:
                for window in windows_of(recording, self._options, self._rate, self._order.windows):
                    yield at, window
            except Exception as error:
                failures[at] = as_failure(error)

    def _result(self, item: WorkItem, heard: Sequence[tuple[Window, Transcript]]) -> Result:
        assert item.recording is not None
        segments = [segment for _, transcript in heard for segment in transcript.segments]
        if self._order.word_times:
            timings = tuple(heard_timing(w.start, w.end, w.text) for segment in segments for w in segment.words)
        else:
            timings = tuple(heard_timing(s.start, s.end, s.text) for s in segments)
        last = heard[-1][0] if heard else None
        return Result(
            seconds=round(last.start + len(last.samples) / self._rate, MILLI_DIGITS) if last else 0.0,
            text=" ".join(transcript.text for _, transcript in heard if transcript.text),
            sha256=item.recording.digest,
            language=heard[0][1].language if heard else None,
            timings=timings,
        )


# --- Separation


class SeparationRenderer:
    """One recording after the other; neighbouring chunks share the engine's batches."""

    def __init__(self, engine: SeparationEngine, order: SeparationOrder, width: int) -> None:
        offered = engine.traits.stems
        if unknown := [stem for stem in order.stems if stem not in offered]:
            raise fail("invalid", f"There is no stem {unknown[0]!r}.", f"Stems: {', '.join(offered)}.", param="stems")
        self._engine = engine
        self._order = order
        self._width = width
        self._stems = tuple(dict.fromkeys(order.stems)) or offered

    def render(self, items: Sequence[WorkItem], recordings: Sequence[bytes | None]) -> list[Outcome]:
        """See `Renderer`."""
        return [self._one(recording) for recording in recordings]

    def _one(self, recording: bytes | None) -> Outcome:
        assert recording is not None
        try:
            return self._separated(recording)
        except Exception as error:
            return as_failure(error)

    def _separated(self, recording: bytes) -> list[Result]:
        settings = self._order.separation
        with closing(AudioDecoder(io.BytesIO(recording), mono=False, max_seconds=settings.max_audio_s)) as decoder:
            rate = rate_for(decoder.info.sample_rate, self._engine.traits.sample_rates)
            plan = plan_chunks(settings.chunk_s, settings.overlap_s, rate)
            sounds = {stem: SoundBytes(self._order.form, rate, decoder.info.channels) for stem in self._stems}
            mergers = {stem: OverlapAdder(plan) for stem in self._stems}
            chunks = chunks_of(decoder, plan, rate)
            while batch := list(islice(chunks, self._width)):
                for chunk, parts in zip(batch, self._stems_of(batch, rate), strict=True):
                    for stem, sound in sounds.items():
                        sound.write(mergers[stem].push(chunk.index, parts.stems[stem], chunk.last))
        return [_stem(stem, sound, self._order, rate) for stem, sound in sounds.items()]

    def _stems_of(self, batch: Sequence[PlannedChunk], rate: int) -> Iterator[Stems]:
        asked = [Chunk(chunk.samples, rate, chunk.index) for chunk in batch]
        for result in advance_or_halve(self._engine.separate, asked):
            if isinstance(result, Exception):
                raise result
            yield result


def _stem(stem: str, sound: SoundBytes, order: SeparationOrder, rate: int) -> Result:
    seconds, data = sound.seconds, sound.finish()
    return Result(seconds=seconds, stem=stem, audio=data, format=order.form, sample_rate=rate, sha256=digest_of(data))


_RENDERERS: Mapping[str, Callable[[Any, Any, int], Renderer]] = {
    "speech": SpeechRenderer,
    "transcription": TranscriptionRenderer,
    "separation": SeparationRenderer,
}
