"""Speech to text on MLX: any model of mlx-audio. Whisper transcribes windows in batches, other models one at a time.

The engine chooses the driver by the methods that a model has (`DRIVERS`), never by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from deployments.audio.pauses import pauses_of
from deployments.engines.mlx.convolution import prepare_cpu_backend
from deployments.engines.mlx.memory import MlxEngine
from deployments.engines.mlx.runtime import ArrayBridge, dtype_of, loading, mx, on_cpu
from deployments.engines.protocols import (
    EngineSpec,
    RecognitionOptions,
    RecognitionTraits,
    Segment,
    Transcript,
    Window,
    Word,
)
from deployments.engines.recognition import SAMPLE_RATE, WindowedRecognition
from deployments.engines.whisper.common import LONGEST_TEXT, is_noise
from deployments.engines.whisper.word_times import placed_words
from deployments.errors import fail
from deployments.weights import convert_whisper

WINDOW_SECONDS = 30.0
BATCH_WINDOWS = 16
FRAMES_PER_SECOND = 100
ENCODER_POSITIONS = "model.encoder.embed_positions.weight"


class RecognitionDriver(Protocol):
    """A way to call a model."""

    @property
    def traits(self) -> RecognitionTraits:
        """The model's abilities."""

    def recognize(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript]:
        """One transcript for each window."""


class WhisperDriver:
    """Whisper: one encoder batch and one greedy decoder batch for all windows."""

    def __init__(self, model: Any, dtype: Any, edge: ArrayBridge) -> None:
        self._model = _in_dtype(model, dtype)
        self._half = dtype == mx.float16
        self._edge = edge
        self._dtype = dtype

    @property
    def traits(self) -> RecognitionTraits:
        """16 kHz windows of up to 30 s."""
        from mlx_audio.stt.models.whisper.tokenizer import LANGUAGES

        many = bool(self._model.is_multilingual)
        return RecognitionTraits(
            SAMPLE_RATE,
            tuple(LANGUAGES) if many else ("en",),
            translates=many,
            max_window_seconds=WINDOW_SECONDS,
            word_times=True,
            prompts=True,
            batch_windows=BATCH_WINDOWS,
        )

    def recognize(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript]:
        """Computes spectrograms on the CPU stream, runs the network on its device, and aligns words on the CPU."""
        with on_cpu():
            mels = mx.stack([self._mel(window) for window in windows])
        heard = self._model.decode(mels, self._decoding(options))
        return [
            self._transcript(window, mel, result, options)
            for window, mel, result in zip(windows, mels, heard, strict=True)
        ]

    def _mel(self, window: Window) -> Any:
        """The log-mel spectrogram of the window padded to 30 s, (3000, bands)."""
        from mlx_audio.stt.models.whisper.audio import N_FRAMES, N_SAMPLES, log_mel_spectrogram, pad_or_trim

        mel = log_mel_spectrogram(self._edge.to_mlx(window.samples), self._model.dims.n_mels, padding=N_SAMPLES)
        return pad_or_trim(mel, N_FRAMES, axis=-2).astype(self._dtype)

    def _decoding(self, options: RecognitionOptions) -> Any:
        from mlx_audio.stt.models.whisper.decoding import DecodingOptions

        mx.random.seed(0)  # a temperature above zero draws; the same window shall give the same words
        return DecodingOptions(
            task="translate" if options.translate else "transcribe",
            language=options.language if self._model.is_multilingual else "en",
            temperature=options.temperature,
            prompt=" ".join(filter(None, [", ".join(options.keywords), options.prompt])) or None,
            without_timestamps=True,
            fp16=self._half,
        )

    def _transcript(self, window: Window, mel: Any, result: Any, options: RecognitionOptions) -> Transcript:
        probabilities = (result.language_probs or {}) if options.language is None else {}
        nothing = Transcript((), result.language, float(probabilities.get(result.language, 1.0)))
        if (
            is_noise(result.no_speech_prob, result.avg_logprob, len(result.tokens) < LONGEST_TEXT)
            or not result.text.strip()
        ):
            return nothing
        task = "translate" if options.translate else "transcribe"
        tokenizer = self._model.get_tokenizer(language=result.language, task=task)
        length = len(window.samples) / SAMPLE_RATE
        words = self._words(window, mel, result.tokens, tokenizer) if options.word_times else ()
        segment = Segment(
            text=tokenizer.decode(list(result.tokens)),
            start=words[0].start if words else 0.0,
            end=words[-1].end if words else length,
            average_log_probability=float(result.avg_logprob),
            no_speech_probability=float(result.no_speech_prob),
            tokens=tuple(result.tokens),
            words=tuple(words),
            language=result.language,
        )
        return replace(nothing, segments=(segment,))

    def _words(self, window: Window, mel: Any, tokens: Sequence[int], tokenizer: Any) -> Sequence[Word]:
        from mlx_audio.stt.models.whisper.timing import find_alignment

        length = len(window.samples) / SAMPLE_RATE
        frames = min(round(length * FRAMES_PER_SECOND), mel.shape[0])
        words = [
            Word(each.word, float(each.start), float(each.end), float(each.probability), tuple(each.tokens))
            for each in find_alignment(self._model, tokenizer, list(tokens), mel, frames)
        ]
        return placed_words(words, pauses_of(window.samples), length)


class SingleWindowDriver:
    """Any other model of mlx-audio: `generate`, one window at a time."""

    def __init__(self, model: Any, dtype: Any, edge: ArrayBridge) -> None:
        self._model = model
        self._edge = edge
        self._rate = int(getattr(model, "sample_rate", SAMPLE_RATE))

    @property
    def traits(self) -> RecognitionTraits:
        """Any language: not all models say which languages they know."""
        return RecognitionTraits(self._rate, (), translates=False, max_window_seconds=WINDOW_SECONDS)

    def recognize(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript]:
        """One window at a time."""
        return [self._recognize(window, options) for window in windows]

    def _recognize(self, window: Window, options: RecognitionOptions) -> Transcript:
        language = {} if options.language is None else {"language": options.language}
        said = self._model.generate(self._edge.to_mlx(window.samples), **language)
        length = len(window.samples) / self._rate
        rows = getattr(said, "segments", None) or getattr(said, "sentences", None) or [{"text": said.text}]
        segments = tuple(_segment_of(length, row) for row in rows)
        return Transcript(segments, options.language or getattr(said, "language", None) or "en")


DRIVERS: Sequence[tuple[tuple[str, ...], Callable[[Any, Any, ArrayBridge], RecognitionDriver]]] = (
    (("decode", "encoder", "decoder", "dims"), WhisperDriver),
    (("generate",), SingleWindowDriver),
)
"""The attributes that a model must have for each driver; the best driver first."""


class MlxRecognition(MlxEngine, WindowedRecognition):
    """Transcribes with one model of mlx-audio."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        prepare_cpu_backend()
        model = _loaded(Path(spec.folder))
        drivers = (driver for needs, driver in DRIVERS if all(hasattr(model, name) for name in needs))
        driver = next(drivers, None)
        if driver is None:
            raise fail("unsupported", f"The model in {spec.folder} does not transcribe.", "Check the model's source.")
        self._driver = driver(model, dtype_of(spec), self.edge)

    @property
    def traits(self) -> RecognitionTraits:
        """Those of the model's driver."""
        return self._driver.traits

    def recognize(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript]:
        """One transcript for each window."""
        return self._driver.recognize(windows, options)

    def warm_up(self) -> None:
        """Runs the whole network on a second of silence, which `transcribe` would skip."""
        silence = np.zeros(self.traits.sample_rate, np.float32)
        self.recognize([Window(silence, RecognitionOptions())], RecognitionOptions())


def _segment_of(length: float, row: Any) -> Segment:
    """A segment from a model's own format; without times it covers the window."""
    fields = row if isinstance(row, Mapping) else vars(row)
    text = str(fields.get("text", ""))
    return Segment(
        text=text,
        start=float(fields.get("start") or 0.0),
        end=float(fields.get("end") or length),
        average_log_probability=0.0,
        no_speech_probability=0.0,
    )


def _loaded(folder: Path) -> Any:
    """The model, loaded by mlx-audio. A Whisper in CTranslate2 format is converted first, once."""
    from mlx_audio.stt import load as load_model

    if convert_whisper.is_ctranslate2(folder):
        folder = convert_whisper.convert(folder)
    with loading():
        model = load_model(folder)
    if getattr(model, "_processor", model) is None:
        raise fail(
            "unavailable", f"The tokenizer in {folder} is missing or cannot be read.", "Check the model's source."
        )
    _use_own_positions(model, folder)
    return model


def _use_own_positions(model: Any, folder: Path) -> None:
    """Whisper checkpoints contain the positional embedding of the training; mlx-audio's loader computes it again, in half
    precision."""
    for path in folder.glob("*.safetensors"):
        positions = mx.load(str(path)).get(ENCODER_POSITIONS)
        if positions is not None and hasattr(model, "encoder"):
            model.encoder._positional_embedding = positions


def _in_dtype(model: Any, dtype: Any) -> Any:
    """Sets the dtype of Whisper, also of the arrays that its loader leaves in half precision."""
    model.set_dtype(dtype)
    model.dtype = dtype
    model.encoder._positional_embedding = model.encoder._positional_embedding.astype(dtype)
    model.decoder._mask = model.decoder._mask.astype(dtype)
    mx.eval(model.parameters())
    return model


def load(spec: EngineSpec) -> MlxRecognition:
    """Loads the model in `spec.folder` and runs it once. Options: `dtype`, `memory_share`."""
    engine = MlxRecognition(spec)
    engine.warm_up()
    return engine
