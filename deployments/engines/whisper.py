"""Whisper on CTranslate2, through faster-whisper: CPU (int8) and CUDA (float16).

A step transcribes windows of up to 30 s. Windows that ask for the same thing share one encoder and decoder batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from faster_whisper import BatchedInferencePipeline, WhisperModel
from faster_whisper.transcribe import Segment as HeardSegment
from faster_whisper.vad import get_speech_timestamps

from deployments.engines.base import (
    EngineSpec,
    RecognitionOptions,
    RecognitionTraits,
    Samples,
    Segment,
    Transcript,
    Window,
    Word,
)
from deployments.errors import fail

SAMPLE_RATE = 16_000
WINDOW_SECONDS = 30.0
BEAM_SIZE = 5
LEAST_REST_SECONDS = 1.0
"""What is left of a window after its last segment is heard again when it is at least this long and has speech."""
# OpenAI's rule for a segment that is not speech: openai/whisper, transcribe.py.
NO_SPEECH_PROBABILITY = 0.6
LOG_PROBABILITY = -1.0

COMPUTE_TYPES: Mapping[str, str] = {"cpu": "int8", "cuda": "float16"}


class WhisperEngine:
    """Any CTranslate2 Whisper folder."""

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
        return RecognitionTraits(SAMPLE_RATE, languages, bool(self._model.model.is_multilingual), WINDOW_SECONDS)

    def transcribe(self, windows: Sequence[Window]) -> list[Transcript | Exception]:
        """Windows with equal options go through the network together."""
        results: dict[int, Transcript | Exception] = {}
        groups: dict[RecognitionOptions, list[int]] = defaultdict(list)
        for position, window in enumerate(windows):
            try:
                self._check(window)
                if _has_speech(window.samples):
                    groups[window.options].append(position)
                else:
                    results[position] = Transcript((), window.options.language or "en")
            except Exception as error:
                results[position] = error
        for options, positions in groups.items():
            results.update(zip(positions, self._group([windows[p] for p in positions], options), strict=True))
        return [results[position] for position in range(len(windows))]

    def warm_up(self) -> None:
        """Runs the whole network on a second of silence, which `transcribe` would skip."""
        self._recognize([Window(np.zeros(SAMPLE_RATE, np.float32), 0.0, RecognitionOptions())], RecognitionOptions())

    def _check(self, window: Window) -> None:
        samples, traits = window.samples, self.traits
        if samples.ndim != 1 or len(samples) > (WINDOW_SECONDS + 0.01) * SAMPLE_RATE:
            raise fail("invalid", f"A window is mono and at most {WINDOW_SECONDS:.0f} s long.", "Cut it first.")
        if not np.isfinite(samples).all():
            raise fail("invalid", "The recording holds values that are not numbers.", "Export it again.", param="file")
        language = window.options.language
        if language is not None and language not in traits.languages:
            known = ", ".join(traits.languages[:12])
            raise fail(
                "unsupported", f"This model does not know {language!r}.", f"It knows: {known}.", param="language"
            )
        if window.options.translate and not traits.translates:
            raise fail(
                "unsupported", "This model hears English only and cannot translate.", "Use a multilingual model."
            )

    def _group(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript | Exception]:
        try:
            return self._heard_to_the_end(windows, options)
        except Exception as error:
            if len(windows) == 1:
                return [error]
            return [self._group([window], options)[0] for window in windows]

    def _heard_to_the_end(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript]:
        """The model may stop before the window does; then the rest is heard like a window of its own.

        Without its times the model would not stop, but repetitive speech makes it leave out more than that.
        """
        transcripts = list(self._recognize(windows, options))
        rests = [_rest(window, transcript) for window, transcript in zip(windows, transcripts, strict=True)]
        again = [(at, rest) for at, rest in enumerate(rests) if rest is not None]
        more = self._heard_to_the_end([rest for _, rest in again], options) if again else ()
        for (at, _), rest_transcript in zip(again, more, strict=True):
            segments = transcripts[at].segments + rest_transcript.segments
            transcripts[at] = Transcript(segments, transcripts[at].language)
        return transcripts

    def _recognize(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript]:
        """One call for all windows: they are laid end to end and named as clips."""
        ends = np.cumsum([len(window.samples) for window in windows])
        starts = ends - [len(window.samples) for window in windows]
        clips = [{"start": s / SAMPLE_RATE, "end": e / SAMPLE_RATE} for s, e in zip(starts, ends, strict=True)]
        heard, about = self._pipeline.transcribe(
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
        for segment in heard:
            clip = int(np.searchsorted(starts / SAMPLE_RATE, segment.seek / 100 + 0.011, side="right")) - 1
            if not _is_noise(segment):
                segments[clip].append(_moved(segment, windows[clip].start - clips[clip]["start"]))
        return [Transcript(tuple(said), about.language) for said in segments]


def _rest(window: Window, transcript: Transcript) -> Window | None:
    """What follows the last segment, if it is worth hearing."""
    if not transcript.segments:
        return None
    end = max(transcript.segments[-1].end - window.start, LEAST_REST_SECONDS)
    start = round(end * SAMPLE_RATE)
    samples = window.samples[start:]
    if len(samples) < LEAST_REST_SECONDS * SAMPLE_RATE or not _has_speech(samples):
        return None
    return Window(samples, window.start + start / SAMPLE_RATE, window.options)


def _has_speech(samples: Samples) -> bool:
    return bool(len(samples)) and bool(get_speech_timestamps(samples))


def _is_noise(segment: HeardSegment) -> bool:
    return bool(segment.no_speech_prob > NO_SPEECH_PROBABILITY and segment.avg_logprob < LOG_PROBABILITY)


def _moved(segment: HeardSegment, by_seconds: float) -> Segment:
    """The segment at its place in the whole recording."""
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
    """Loads the CTranslate2 model in `spec.folder`, and decodes once: the first request finds everything in place."""
    engine = WhisperEngine(spec)
    engine.warm_up()
    return engine
