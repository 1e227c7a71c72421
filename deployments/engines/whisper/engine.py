"""Whisper on CTranslate2, through faster-whisper: int8 on a CPU, float16 on CUDA.

A step transcribes windows of up to 30 s. Windows with equal options share one encoder batch and one decoder batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from faster_whisper import BatchedInferencePipeline, WhisperModel
from faster_whisper.transcribe import Segment as CTranslate2Segment

from deployments.engines.protocols import (
    EngineSpec,
    RecognitionOptions,
    RecognitionTraits,
    Segment,
    Transcript,
    Window,
    Word,
)
from deployments.engines.recognition import SAMPLE_RATE
from deployments.engines.whisper.common import WhisperRecognition, is_noise
from deployments.errors import fail

WINDOW_SECONDS = 30.0
BEAM_SIZE = 5
BATCH_WINDOWS = 16

COMPUTE_TYPES: Mapping[str, str] = {"cpu": "int8", "cuda": "float16"}


class WhisperEngine(WhisperRecognition):
    """Any Whisper model in CTranslate2 format."""

    def __init__(self, spec: EngineSpec) -> None:
        if spec.device not in COMPUTE_TYPES:
            raise fail("unsupported", f"Whisper on CTranslate2 does not run on {spec.device!r}.", "Use cpu or cuda.")
        compute_type = str(spec.options.get("compute_type", COMPUTE_TYPES[spec.device]))
        self._model = WhisperModel(
            spec.folder, device=spec.device, compute_type=compute_type, cpu_threads=spec.threads, local_files_only=True
        )
        self._pipeline = BatchedInferencePipeline(self._model)

    @property
    def traits(self) -> RecognitionTraits:
        """16 kHz windows of up to 30 s."""
        languages = tuple(self._model.supported_languages)
        return RecognitionTraits(
            SAMPLE_RATE,
            languages,
            translates=bool(self._model.model.is_multilingual),
            max_window_seconds=WINDOW_SECONDS,
            word_times=True,
            prompts=True,
            batch_windows=BATCH_WINDOWS,
        )

    def warm_up(self) -> None:
        """Runs the whole network on a second of silence, which `transcribe` would skip."""
        self.recognize([Window(np.zeros(SAMPLE_RATE, np.float32), RecognitionOptions())], RecognitionOptions())

    def recognize(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript]:
        """One call for all windows: they are concatenated, and passed with the start and end of each as clips."""
        ends = np.cumsum([len(window.samples) for window in windows])
        starts = ends - [len(window.samples) for window in windows]
        clips = [{"start": s / SAMPLE_RATE, "end": e / SAMPLE_RATE} for s, e in zip(starts, ends, strict=True)]
        segments_found, info = self._pipeline.transcribe(
            np.concatenate([window.samples for window in windows]),
            language=options.language,
            task="translate" if options.translate else "transcribe",
            initial_prompt=options.prompt,
            temperature=options.temperature,
            word_timestamps=options.word_times,
            clip_timestamps=clips,
            batch_size=len(windows),
            beam_size=BEAM_SIZE,
            vad_filter=False,
            without_timestamps=False,
        )
        segments: list[list[Segment]] = [[] for _ in windows]
        for segment in segments_found:
            clip = int(np.searchsorted(starts / SAMPLE_RATE, segment.seek / 100 + 0.011, side="right")) - 1
            if not is_noise(segment.no_speech_prob, segment.avg_logprob):
                segments[clip].append(_segment_at(segment, -clips[clip]["start"]))
        return [Transcript(tuple(own), info.language) for own in segments]


def _segment_at(segment: CTranslate2Segment, by_seconds: float) -> Segment:
    """The segment with its times moved by `by_seconds`."""
    words = tuple(
        Word(word.word, word.start + by_seconds, word.end + by_seconds, word.probability)
        for word in segment.words or ()
    )
    return Segment(
        text=segment.text,
        start=segment.start + by_seconds,
        end=segment.end + by_seconds,
        average_log_probability=segment.avg_logprob,
        compression_ratio=segment.compression_ratio,
        no_speech_probability=segment.no_speech_prob,
        tokens=tuple(segment.tokens),
        words=words,
    )


def load(spec: EngineSpec) -> WhisperEngine:
    """Loads the CTranslate2 model in `spec.folder` and runs it once, so that the first request is not slower."""
    engine = WhisperEngine(spec)
    engine.warm_up()
    return engine
