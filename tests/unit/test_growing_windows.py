"""Windows that grow: over an engine that hears numbers, and over Whisper tiny.en."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from deployments.engines.growing_windows import CUT_AFTER_S, LONGEST_S, GrowingStream, GrowingWindows, cuts_of
from deployments.engines.protocols import (
    RecognitionEngine,
    RecognitionOptions,
    RecognitionTraits,
    Samples,
    Segment,
    Token,
    Transcript,
    Window,
)
from deployments.engines.recognition import CheckedRecognition
from deployments.engines.streaming import PartialTranscript
from deployments.engines.whisper.engine import WhisperEngine
from tests.unit.recognition_engine_properties import SENTENCES, spoken
from tests.unit.streaming_engine_properties import (
    Streaming,
    StreamingEngineProperties,
    Talk,
    hear,
    plain_words,
    texts_of,
)
from tests.unit.test_whisper import load

RATE = 16_000
WORD = RATE // 4
"""A word of the engine that hears numbers: 0.2 s at its own level, and 0.05 s of silence."""
SOUND = RATE // 5
STEP = 1 / 1024


def numbers(*words: int) -> Samples:
    """The sound of words, each a number."""
    samples = np.zeros((len(words), WORD), np.float32)
    for row, word in zip(samples, words, strict=True):
        row[:SOUND] = word * STEP
    return samples.reshape(-1)


class NumberEngine(CheckedRecognition):
    """Hears a word where at least half of its sound is. `said` changes the words of a window."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.options: list[RecognitionOptions] = []
        self.calls = 0

    @property
    def traits(self) -> RecognitionTraits:
        return RecognitionTraits(RATE, ("en", "de"), translates=False, max_window_seconds=30.0, batch_windows=8)

    def said(self, words: list[str]) -> list[str]:
        return words

    def recognize_all(self, windows: Sequence[Window]) -> list[Transcript]:
        self.calls += 1
        self.lengths += [len(window.samples) for window in windows]
        self.options += [window.options for window in windows]
        return [self._transcript(window) for window in windows]

    def _transcript(self, window: Window) -> Transcript:
        levels = np.rint(window.samples / STEP).astype(int)
        edges = np.flatnonzero(np.diff(levels, prepend=0, append=0))
        runs = [(levels[start], end - start) for start, end in itertools.pairwise(edges) if levels[start]]
        text = " ".join(self.said([str(level) for level, length in runs if length >= SOUND / 2]))
        segments = (Segment(text, 0.0, len(window.samples) / RATE, -0.1, 0.0),) if text else ()
        return Transcript(segments, window.options.language or "en")


def is_loud(samples: Samples, after: int) -> bool:
    return bool(np.any(samples[after:]))


def windows_over(engine: RecognitionEngine) -> GrowingWindows:
    return GrowingWindows(engine, is_loud)


class TokenEngine(NumberEngine):
    """Its text is also its token."""

    def _transcript(self, window: Window) -> Transcript:
        heard = super()._transcript(window)
        return replace(heard, tokens=tuple(Token(word, -0.1, word.encode()) for word in heard.text.split()))


def test_the_last_transcript_has_the_tokens_of_all_windows() -> None:
    engine = windows_over(TokenEngine())
    stream = engine.open(RecognitionOptions(token_probabilities=True))
    engine.push(stream, numbers(1, 2, 3))
    engine.step([stream])
    engine.push(stream, np.zeros(4 * RATE, np.float32))
    engine.step([stream])
    engine.push(stream, numbers(4, 5))
    engine.finish(stream, stream.pushed)
    (last,) = engine.step([stream])
    assert isinstance(last, PartialTranscript)
    assert last.transcript is not None
    assert [token.text for token in last.transcript.tokens] == ["1", "2", "3", "4", "5"]


class TestNumbers(StreamingEngineProperties):
    @pytest.fixture
    def engine(self) -> GrowingWindows:
        return windows_over(NumberEngine())

    def sound(self, engine: Streaming, number: int) -> Samples:
        return numbers(*range(1 + 100 * number, 13 + 100 * number))

    def offline(self, engine: Streaming, samples: Samples) -> str:
        return offline(NumberEngine(), samples)


class TestTiny(StreamingEngineProperties):
    @pytest.fixture
    def engine(self, tiny: WhisperEngine) -> GrowingWindows:
        return GrowingWindows(tiny)

    def offline(self, engine: Streaming, samples: Samples) -> str:
        assert isinstance(engine, GrowingWindows)
        return offline(engine._engine, samples)


@pytest.fixture(scope="module")
def tiny() -> WhisperEngine:
    return load()


def offline(engine: RecognitionEngine, samples: Samples) -> str:
    (result,) = engine.transcribe([Window(samples, RecognitionOptions(language="en"))])
    assert isinstance(result, Transcript)
    return result.text


def step(engine: GrowingWindows, stream: GrowingStream, samples: Samples) -> tuple[str, str]:
    """Committed and tentative text after more sound."""
    engine.push(stream, samples)
    return texts_of(engine.step([stream]))[0]


def test_a_word_is_committed_when_two_hearings_agree_and_never_at_the_end_of_the_sound() -> None:
    engine = windows_over(NumberEngine())
    stream = engine.open(RecognitionOptions())
    assert step(engine, stream, numbers(1, 2)) == ("", "1 2")
    assert step(engine, stream, numbers(3)) == ("1 2", " 3")
    assert step(engine, stream, numbers(4)) == ("1 2 3", " 4")


class Scripted(NumberEngine):
    """Says one text after another, whatever it hears."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self._texts = iter(texts)

    def said(self, words: list[str]) -> list[str]:
        return next(self._texts).split()


def spoken_by(*texts: str) -> list[tuple[str, str]]:
    """What a stream gives while an engine says these texts in turn; the last one after its end."""
    engine = windows_over(Scripted(*texts))
    stream = engine.open(RecognitionOptions())
    found = [step(engine, stream, numbers(1)) for _ in texts[:-1]]
    engine.push(stream, numbers(2))
    engine.finish(stream, stream.pushed)
    return [*found, texts_of(engine.step([stream]))[0]]


def test_the_spelling_is_that_of_the_later_hearing() -> None:
    assert spoken_by("hello, world", "Hello world and", "Hello world and all.")[1:] == [
        ("Hello world", " and"),
        ("Hello world and all.", ""),
    ]


@pytest.mark.parametrize(
    ("texts", "last"),
    [
        (("a b c", "a b c d", "a b", "a b c d e"), "a b c d e"),
        (("a b c", "a b c d", "", "a b c d e"), "a b c d e"),
        (("a b c", "a b c d", "a b c d e", "a b"), "a b c d"),
        (("a b c", "a b c d", "b c d e", "b c d e f"), "a b c d e f"),
        (("a b c", "a b c d", "a x c d e", "a x c d e f"), "a b c d e f"),
    ],
)
def test_hearings_that_lose_or_change_committed_words_lose_and_repeat_nothing(
    texts: tuple[str, ...], last: str
) -> None:
    found = spoken_by(*texts)
    assert found[-1] == (last, "")
    assert all(later.startswith(before) for (before, _), (later, _) in itertools.pairwise(found))


def test_a_text_that_repeats_itself_commits_nothing() -> None:
    loop = " ".join(["and then we go there"] * 12)
    assert spoken_by(loop, loop, "a b", "a b") == [("", ""), ("", ""), ("", "a b"), ("a b", "")]


def test_silence_is_not_heard() -> None:
    engine = NumberEngine()
    windows = windows_over(engine)
    stream = windows.open(RecognitionOptions())
    for _ in range(20):
        step(windows, stream, np.zeros(RATE, np.float32))
    assert engine.calls == 0
    assert stream.sound.held <= 2 * RATE
    step(windows, stream, numbers(1, 2, 3))
    assert step(windows, stream, np.zeros(RATE // 2, np.float32)) == ("1 2", " 3")
    calls = engine.calls
    assert step(windows, stream, np.zeros(RATE, np.float32)) == ("1 2 3", "")  # a long pause ends the window
    assert engine.calls == calls


def test_a_long_talk_is_cut_and_nothing_is_lost_or_repeated() -> None:
    engine = NumberEngine()
    said = list(range(1, 201))
    pauses = [np.zeros(RATE // 4, np.float32)]
    sound = [np.concatenate([numbers(*said[at : at + 7]), *pauses]) for at in range(0, len(said), 7)]
    talk = Talk(windows_over(engine), np.concatenate(sound))
    hear(talk.engine, talk)
    assert talk.texts[-1].committed == " ".join(map(str, said))
    assert max(engine.lengths) <= (CUT_AFTER_S + 3) * RATE
    transcript = talk.texts[-1].transcript
    assert transcript is not None
    times = [(segment.start, segment.end) for segment in transcript.segments]
    assert times == sorted(times)
    assert times[-1][1] == pytest.approx(len(talk.samples) / RATE, abs=0.5)


def test_a_hearing_of_a_part_that_repeats_itself_moves_no_words() -> None:
    """Whisper's text of a part before a cut repeats itself now and then. What was heard before stands then."""

    class Repeating(NumberEngine):
        repeated = 0

        def _transcript(self, window: Window) -> Transcript:
            heard = super()._transcript(window)
            if window.options.effort == "least" or self.repeated == 3:
                return heard
            self.repeated += 1
            return replace(heard, segments=(replace(heard.segments[0], text="again and " * 40),))

    engine = Repeating()
    said = list(range(1, 101))
    sound = [np.concatenate([numbers(*said[at : at + 7]), np.zeros(RATE // 4, np.float32)]) for at in range(0, 100, 7)]
    talk = Talk(windows_over(engine), np.concatenate(sound))
    hear(talk.engine, talk)
    assert engine.repeated == 3
    assert talk.texts[-1].committed == " ".join(map(str, said))


def test_sound_that_comes_at_once_is_heard_in_windows_that_the_engine_takes() -> None:
    engine = NumberEngine()
    windows = windows_over(engine)
    stream = windows.open(RecognitionOptions())
    windows.push(stream, numbers(*range(1, 241)))
    windows.finish(stream, stream.pushed)
    assert texts_of(windows.step([stream])) == [(" ".join(map(str, range(1, 241))), "")]
    assert max(engine.lengths) <= LONGEST_S * RATE
    assert engine.calls == 1


def test_a_failed_hearing_changes_nothing_and_the_next_one_goes_on() -> None:
    class Failing(NumberEngine):
        def said(self, words: list[str]) -> list[str]:
            if self.calls == 2:
                raise RuntimeError("broken")
            return words

    engine = windows_over(Failing())
    stream = engine.open(RecognitionOptions())
    step(engine, stream, numbers(1, 2))
    with pytest.raises(RuntimeError, match="broken"):
        step(engine, stream, numbers(3))
    assert step(engine, stream, numbers(4)) == ("1 2", " 3 4")


def test_only_windows_that_are_heard_again_take_the_least_effort() -> None:
    engine = NumberEngine()
    talk = Talk(windows_over(engine), numbers(1, 2, 3, 4, 5))
    hear(talk.engine, talk)
    engine.options.clear()
    stream = talk.engine.open(RecognitionOptions())
    talk.engine.push(stream, numbers(1, 2))
    talk.engine.step([stream])
    talk.engine.push(stream, numbers(3))
    talk.engine.finish(stream, stream.pushed)
    talk.engine.step([stream])
    assert [options.effort for options in engine.options] == ["least", "bounded"]


def test_the_language_stays_once_words_are_committed() -> None:
    class German(NumberEngine):
        def _transcript(self, window: Window) -> Transcript:
            return replace(super()._transcript(window), language=window.options.language or "de")

    engine = German()
    talk = Talk(windows_over(engine), numbers(*range(1, 9)), RecognitionOptions())
    hear(talk.engine, talk)
    assert [options.language for options in engine.options][:3] == [None, None, "de"]
    assert talk.texts[-1].language == "de"


def test_a_cut_is_in_a_pause_or_at_the_quietest_moment() -> None:
    tone = 0.1 * np.ones(12 * RATE, np.float32)
    assert cuts_of(tone[: 9 * RATE]) == []
    tone[4 * RATE : 4 * RATE + RATE // 3] = 0.0
    assert cuts_of(tone[: 8 * RATE]) == [pytest.approx(4.17 * RATE, abs=0.05 * RATE)]
    loud = 0.1 * np.ones(12 * RATE, np.float32)
    loud[7 * RATE : 7 * RATE + RATE // 5] *= 0.8
    assert cuts_of(loud) == [pytest.approx(7.1 * RATE, abs=0.1 * RATE)]


@pytest.mark.long
def test_a_long_talk_is_heard_as_offline(tiny: WhisperEngine) -> None:
    pause = np.zeros(RATE // 3, np.float32)
    samples = np.concatenate([part for text in SENTENCES * 2 for part in (spoken(text, RATE), pause)])
    talk = Talk(GrowingWindows(tiny), samples)
    hear(talk.engine, talk)
    assert plain_words(talk.texts[-1].committed) == plain_words(" ".join(SENTENCES * 2))
