"""The properties of every recognition engine. A test class of an engine inherits these tests and provides the fixture
`engine`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from hibari import Hibari

from deployments.engines.protocols import RecognitionEngine, RecognitionOptions, Samples, Transcript, Window
from deployments.errors import MotetError

GOLDEN = Path(__file__).parent / "golden"
RECORDED = Path(__file__).parent / "recorded_sentences"
SENTENCES = (
    "The river rose quickly after three days of heavy rain.",
    "Where does the next train to Boston leave?",
    "Please call me back on Monday morning.",
)


@cache
def spoken(sentence: str, sample_rate: int) -> Samples:
    """The sentence as audio, always the same."""
    voice = Hibari()
    samples: Samples = soxr.resample(voice(sentence, seed=0), voice.sample_rate, sample_rate).astype(np.float32)
    return samples


@cache
def recorded(number: int) -> Samples:
    """A sentence of `SENTENCES` at 16 kHz, from a file. Models with random weights need it: some of their tokens are near
    ties, and hibari's samples differ between processors."""
    samples, _ = soundfile.read(RECORDED / f"{number}.flac", dtype="float32")
    return np.asarray(samples, np.float32)


def good(result: Transcript | Exception) -> Transcript:
    if isinstance(result, Exception):
        raise result
    return result


TEXT_TOKENS = 50256
"""In every Whisper vocabulary the tokens of text come first; those for the end, languages and times follow."""
END_WITHIN_S = 0.5
"""Where a sentence ends in trailing silence is a near tie between times. Processors with other instruction sets round
eight-bit products otherwise and break it otherwise: 2.0 s on one, 2.4 s on another, with equal words."""


class AnyRecognitionProperties:
    """Of an engine with any weights, random ones too. Inherit it and set `golden_name`."""

    golden_name: str

    def window(self, engine: RecognitionEngine, number: int, *, word_times: bool = False) -> Window:
        samples = spoken(SENTENCES[number], engine.traits.sample_rate)
        return Window(samples, RecognitionOptions(language="en", word_times=word_times))

    def test_batched_equals_single(self, engine: RecognitionEngine) -> None:
        windows = [self.window(engine, number) for number in range(len(SENTENCES))]
        alone = [good(engine.transcribe([window])[0]) for window in windows]
        together = [good(result) for result in engine.transcribe(windows)]
        assert [t.text for t in together] == [t.text for t in alone]
        for one, other in zip(together, alone, strict=True):
            for a, b in zip(one.segments, other.segments, strict=True):
                assert (a.start, a.end) == pytest.approx((b.start, b.end), abs=0.05)

    def test_golden(self, engine: RecognitionEngine) -> None:
        """Rewrite with `python -m tests.unit.<the test module>` after a change that is meant to change the transcript."""
        kept = json.loads((GOLDEN / f"{self.golden_name}.json").read_text())
        heard = described(engine, self)
        assert [segment["text"] for segment in heard] == [segment["text"] for segment in kept]
        for now, before in zip(heard, kept, strict=True):
            assert words_of(now) == words_of(before)
            assert now["end"] == pytest.approx(before["end"], abs=END_WITHIN_S)

    def test_poison_fails_alone(self, engine: RecognitionEngine) -> None:
        rate = engine.traits.sample_rate
        broken = Window(np.full(rate, np.nan, np.float32), RecognitionOptions(language="en"))
        too_long = Window(np.zeros(31 * rate, np.float32), RecognitionOptions(language="en"))
        first, last = self.window(engine, 0), self.window(engine, 1)
        poison = [broken, too_long]
        if engine.traits.languages:
            poison.append(Window(first.samples, RecognitionOptions(language="xx")))
        results = engine.transcribe([first, *poison, last])
        alone = [good(engine.transcribe([window])[0]).text for window in (first, last)]
        assert [good(results[at]).text for at in (0, -1)] == alone
        assert all(isinstance(result, MotetError) for result in results[1:-1])


class RecognitionEngineProperties(AnyRecognitionProperties):
    """Of an engine with the weights of a real model."""

    def test_the_words_are_heard(self, engine: RecognitionEngine) -> None:
        for number, sentence in enumerate(SENTENCES):
            assert good(engine.transcribe([self.window(engine, number)])[0]).text == sentence

    def test_times_are_those_of_the_window(self, engine: RecognitionEngine) -> None:
        window = self.window(engine, 0, word_times=True)
        transcript = good(engine.transcribe([window])[0])
        end = len(window.samples) / engine.traits.sample_rate
        words = [word for segment in transcript.segments for word in segment.words]
        assert [word.text.strip() for word in words] == SENTENCES[0].split()
        times = [time for word in words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert 0.0 <= times[0] < times[-1] <= end + 0.1

    def test_silence_and_noise_say_nothing(self, engine: RecognitionEngine) -> None:
        rate = engine.traits.sample_rate
        noise = np.random.default_rng(0).standard_normal(5 * rate).astype(np.float32) * 0.01
        for samples in (np.zeros(rate, np.float32), np.zeros(0, np.float32), noise):
            assert good(engine.transcribe([Window(samples, RecognitionOptions())])[0]).text == ""

    def test_different_options_share_a_call(self, engine: RecognitionEngine) -> None:
        plain, with_words = self.window(engine, 0), self.window(engine, 1, word_times=True)
        first, second = (good(result) for result in engine.transcribe([plain, with_words]))
        assert (first.text, second.text) == (SENTENCES[0], SENTENCES[1])
        assert not first.segments[0].words
        assert second.segments[0].words


def words_of(segment: Mapping[str, Any]) -> list[int]:
    """The tokens of a segment without those for times, which `start` and `end` hold in seconds."""
    return [token for token in segment["tokens"] if token < TEXT_TOKENS]


def described(engine: RecognitionEngine, properties: AnyRecognitionProperties) -> list[dict[str, object]]:
    """The transcripts now, as plain data."""
    windows = [properties.window(engine, number) for number in range(len(SENTENCES))]
    return [
        {"text": segment.text, "tokens": list(segment.tokens), "start": segment.start, "end": segment.end}
        for window in windows
        for segment in good(engine.transcribe([window])[0]).segments
    ]


def write_golden(engine: RecognitionEngine, properties: AnyRecognitionProperties) -> None:
    """Stores the transcripts now."""
    path = GOLDEN / f"{properties.golden_name}.json"
    path.write_text(json.dumps(described(engine, properties), indent=1) + "\n")
