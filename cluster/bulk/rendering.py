"""Renders batches with an engine: many rows at once, each with an outcome of its own. It imports neither Ray nor the job's
files."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, Protocol

from cluster.bulk.job import BulkJob, BulkSeparationOrder, BulkSpeechOrder, BulkTranscriptionOrder
from cluster.bulk.plan import WorkItem
from cluster.bulk.results import Outcome, RowResult, digest_of, rounded_timing
from cluster.bulk.sound import SoundBytes
from cluster.bulk.speech_rendering import SpeechRenderer
from deployments.engines.protocols import (
    RecognitionEngine,
    RecognitionOptions,
    SeparationEngine,
)
from deployments.errors import Failure, MotetError, as_failure, fail
from deployments.replica.base import load_engine
from deployments.tasks.engine_calls import LocalBatch, run_here
from deployments.tasks.piece_hearing import EngineHearing
from deployments.tasks.separation import SeparationTask, separate_here
from deployments.tasks.transcription import (
    TranscriptWindow,
    language_of,
    seconds_of,
    segments_of,
    task_for,
    text_of,
    transcribe_all,
)

RETRIED_KINDS = ("engine", "unavailable", "timeout")
"""Kinds of failure that may not occur again."""


class Renderer(Protocol):
    """One engine and one order. Its constructor raises `MotetError` for an order that fits no row, such as an unknown
    voice."""

    def render(self, items: Sequence[WorkItem], recordings: Sequence[bytes | None]) -> list[Outcome]:
        """The outcome of each item. `recordings` has their bytes; None for speech."""


def renderer_of(job: BulkJob, engine: Any) -> Renderer:
    """The renderer for a job's order."""
    order, width = job.order, job.model.steps.max_batch_size
    inner = _RENDERERS[order.task](engine, order, width)
    return _RetryingRenderer(inner, job.bulk.retries)


class _RetryingRenderer:
    """Repeats an item that failed, alone. Raises `MotetError` (storage_full) if this machine has no room for temporary
    files: every item would fail, and none is to blame."""

    def __init__(self, inner: Renderer, retries: int) -> None:
        self._inner = inner
        self._retries = retries

    def render(self, items: Sequence[WorkItem], recordings: Sequence[bytes | None]) -> list[Outcome]:
        outcomes = self._inner.render(items, recordings)
        for at, outcome in enumerate(outcomes):
            for _ in range(self._retries):
                if not (isinstance(outcome, Failure) and outcome.kind in RETRIED_KINDS):
                    break
                outcome = self._inner.render([items[at]], [recordings[at]])[0]
            if isinstance(outcome, Failure) and outcome.kind == "storage_full":
                raise MotetError(outcome)
            outcomes[at] = outcome
        return outcomes


# --- Transcription


class TranscriptionRenderer:
    """Windows of all recordings of a batch share the engine's batches."""

    def __init__(self, engine: RecognitionEngine, order: BulkTranscriptionOrder, width: int) -> None:
        self._engine = engine
        self._order = order
        self._width = width
        self._options = RecognitionOptions(order.language, order.prompt, word_times=order.word_times)

    def render(self, items: Sequence[WorkItem], recordings: Sequence[bytes | None]) -> list[Outcome]:
        """See `Renderer`."""
        transcripts: dict[int, list[TranscriptWindow]] = {at: [] for at in range(len(items))}
        failures: dict[int, Failure] = {}
        for at, window in self._windows([_there(recording) for recording in recordings]):
            if isinstance(window, Exception):
                failures[at] = as_failure(window)
            else:
                transcripts[at].append(window)
        return [failures.get(at) or [self._result(item, transcripts[at])] for at, item in enumerate(items)]

    def _windows(self, recordings: Sequence[bytes]) -> Iterator[tuple[int, TranscriptWindow | Exception]]:
        task, calls = task_for(self._engine.traits, self._options), LocalBatch(self._engine.transcribe)
        files = [io.BytesIO(recording) for recording in recordings]
        return run_here(transcribe_all(files, task, self._order.windows, calls.start, self._width))

    def _result(self, item: WorkItem, windows: Sequence[TranscriptWindow]) -> RowResult:
        assert item.recording is not None
        segments = segments_of(windows)
        timed = [word for segment in segments for word in segment.words] if self._order.word_times else segments
        return RowResult(
            seconds=seconds_of(windows),
            text=text_of(windows),
            sha256=item.recording.digest,
            language=language_of(windows),
            timings=tuple(rounded_timing(each.start, each.end, each.text) for each in timed),
        )


# --- Separation


class SeparationRenderer:
    """One recording after the other. Neighbouring chunks share the engine's batches."""

    def __init__(self, engine: SeparationEngine, order: BulkSeparationOrder, width: int) -> None:
        offered = engine.traits.stems
        if unknown := [stem for stem in order.stems if stem not in offered]:
            raise fail("invalid", f"There is no stem {unknown[0]!r}.", f"Stems: {', '.join(offered)}.", param="stems")
        self._engine = engine
        self._order = order
        self._width = width
        self._stems = tuple(dict.fromkeys(order.stems)) or offered
        self._task = SeparationTask.for_model(engine.traits, order.separation)

    def render(self, items: Sequence[WorkItem], recordings: Sequence[bytes | None]) -> list[Outcome]:
        """See `Renderer`."""
        return [self._one(_there(recording)) for recording in recordings]

    def _one(self, recording: bytes) -> Outcome:
        try:
            return self._separated(io.BytesIO(recording))
        except Exception as error:
            return as_failure(error)

    def _separated(self, recording: io.BytesIO) -> list[RowResult]:
        sounds: dict[str, SoundBytes] = {}
        most_seconds = self._order.separation.max_audio_s
        with ExitStack() as opened:
            for merged in separate_here(recording, self._task, self._engine, most_seconds, self._width):
                for stem in self._stems:
                    samples = merged.stems[stem]
                    if stem not in sounds:
                        sound = SoundBytes(self._order.form, merged.sample_rate, len(samples))
                        sounds[stem] = opened.enter_context(closing(sound))
                    sounds[stem].write(samples)
            return [_stem(stem, sound, self._order) for stem, sound in sounds.items()]


def _there(recording: bytes | None) -> bytes:
    assert recording is not None
    return recording


def _stem(stem: str, sound: SoundBytes, order: BulkSeparationOrder) -> RowResult:
    seconds, data, rate = sound.seconds, sound.finish(), sound.sample_rate
    return RowResult(
        seconds=seconds, stem=stem, audio=data, format=order.form, sample_rate=rate, sha256=digest_of(data)
    )


def _speech_renderer(engine: Any, order: BulkSpeechOrder, width: int) -> Renderer:
    hearing = EngineHearing(load_engine(order.verifier)) if order.verifier else None
    return SpeechRenderer(engine, order, width, hearing)


_RENDERERS: Mapping[str, Callable[[Any, Any, int], Renderer]] = {
    "speech": _speech_renderer,
    "transcription": TranscriptionRenderer,
    "separation": SeparationRenderer,
}
