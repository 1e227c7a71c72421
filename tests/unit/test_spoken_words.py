"""Words of speech get to their reader with the times at which they are heard: over the driver and in both kinds of events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from deployments.engines.protocols import (
    AudioChunk,
    RecognitionTraits,
    Segment,
    SpeechRequest,
    SpeechTraits,
    SpokenWord,
    Transcript,
    Window,
    Word,
)
from deployments.replica.wire import pack, unpack
from deployments.tasks.in_process_speech import speak_here
from deployments.tasks.spoken_words import WordRecorder
from deployments.text.piece import Piece
from deployments.text.sources import WholeText
from deployments.text.word_mapping import words_in
from serve_app.gateway.speech.source_map import SourcePosition, SourceSpan
from serve_app.gateway.speech.stream_words import StreamWords
from tests.unit.fakes import TRAITS, ToneEngine, ToneSynthesizer, ToneUtterance
from tests.unit.test_api import Bench, Ear, events_of
from tests.unit.test_speech_sessions import CONFIG, DONE, conversation, text

FIRST, SECOND = "It rained all day.", "We stayed inside and slept."
CHARACTER_S = 0.01


def words_of(piece: str, speed: float = 1.0) -> Iterator[SpokenWord]:
    """Each word of a tone piece lies where its characters lie."""
    at = 0
    for word in words_in(piece):
        at = piece.index(word, at)
        yield SpokenWord(word, at * CHARACTER_S / speed, (at + len(word)) * CHARACTER_S / speed)
        at += len(word)


class TimedEngine(ToneEngine):
    """A tone engine that knows its words."""

    @property
    def traits(self) -> SpeechTraits:
        return replace(TRAITS, word_times=True)

    def _say(self, utterance: ToneUtterance) -> AudioChunk:
        chunk = super()._say(utterance)
        return replace(chunk, words=tuple(words_of(chunk.text, utterance.request.speed)))


class TimedSynthesizer(ToneSynthesizer):
    """The deployment of that engine."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = TimedEngine()


def said(pieces: Sequence[Piece], speed: float = 1.0) -> list[SpokenWord]:
    recorder = WordRecorder()
    for chunk in speak_here(SpeechRequest((), "ada", speed), TimedEngine(), WholeText(pieces)):
        recorder.add(chunk)
    return recorder.words


def expected(*pieces: tuple[str, float]) -> list[SpokenWord]:
    """The words of pieces that begin at these seconds."""
    return [word.later(begins) for piece, begins in pieces for word in words_of(piece)]


def assert_alike(words: Sequence[SpokenWord], others: Sequence[SpokenWord], within_s: float = 0.002) -> None:
    assert [word.text for word in words] == [word.text for word in others]
    for word, other in zip(words, others, strict=True):
        assert (word.start, word.end) == pytest.approx((other.start, other.end), abs=within_s)


# --- The driver


def test_a_pause_comes_between_the_words_of_two_pieces() -> None:
    words = said([Piece(FIRST, FIRST, pause_s=0.5), Piece(SECOND, SECOND)])
    assert_alike(words, expected((FIRST, 0.0), (SECOND, CHARACTER_S * len(FIRST) + 0.5)))


@pytest.mark.parametrize("speed", [0.25, 0.5, 1.5, 4.0])
def test_times_follow_the_model_and_the_stretch(speed: float) -> None:
    whole = expected((FIRST, 0.0), (SECOND, CHARACTER_S * len(FIRST)))
    wanted = [SpokenWord(word.text, word.start / speed, word.end / speed) for word in whole]
    assert_alike(said([Piece(FIRST, FIRST), Piece(SECOND, SECOND)], speed), wanted)


def test_a_piece_of_another_speed_has_its_own_times() -> None:
    slow = said([Piece(FIRST, FIRST, speed=0.25), Piece(SECOND, SECOND)])
    ends = CHARACTER_S * len(FIRST) / 0.25
    assert_alike(slow[4:], expected((SECOND, ends)))
    assert slow[3].end == pytest.approx(ends, abs=0.01)


def test_times_belong_to_the_words_that_are_written() -> None:
    words = said([Piece("Pay $5 — now!", "Pay five dollars now!")])
    assert [word.text for word in words] == ["Pay", "$5", "—", "now!"]
    assert (words[1].start, words[1].end) == pytest.approx((0.04, 0.16))
    assert words[2].start == words[2].end == words[1].end


def test_words_cross_the_wire() -> None:
    chunk = next(iter(speak_here(SpeechRequest((FIRST,), "ada"), TimedEngine())))
    assert unpack(pack(chunk)).words == chunk.words == tuple(words_of(FIRST))


# --- The stream


def span(start: int, piece: int, sample: int, **more: Any) -> SourceSpan:
    return SourceSpan(start, SourcePosition(piece, sample, more.pop("fallback_from", None)), **more)


def taken(words: StreamWords) -> list[tuple[int, str, float, float]]:
    return [(piece, word.text, word.start, word.end) for piece, word in words.take()]


def test_a_word_is_given_when_its_beginning_leaves() -> None:
    words = StreamWords(100)
    words.add((0, None), [SpokenWord("a", 0.1, 0.4), SpokenWord("b", 0.5, 0.6)])
    assert taken(words) == []
    words.passed([span(0, 0, 0)], 20)
    assert taken(words) == [(0, "a", 0.1, 0.4)]
    words.passed([span(20, 0, 20)], 40)
    assert taken(words) == []
    words.passed([span(40, 0, 40), span(60, 1, 0)], 70)
    assert taken(words) == [(0, "b", 0.5, 0.6)]


def test_a_gap_moves_the_words_after_it() -> None:
    words = StreamWords(100)
    words.add((0, None), [SpokenWord("a", 0.1, 0.2), SpokenWord("b", 0.3, 0.4)])
    words.passed([span(0, 0, 0), span(20, 0, 20, concealed=True)], 50)
    assert taken(words) == [(0, "a", 0.1, 0.2)]
    words.passed([span(50, 0, 20)], 70)
    assert taken(words) == [(0, "b", 0.6, 0.7)]


def test_a_fallback_voice_has_words_of_its_own() -> None:
    words = StreamWords(100)
    words.add((0, None), [SpokenWord("a", 0.1, 0.2), SpokenWord("b", 0.5, 0.6)])
    words.passed([span(0, 0, 0)], 30)
    words.add((0, 0), [SpokenWord("a", 0.0, 0.2), SpokenWord("b", 0.2, 0.3)])
    words.passed([span(30, 0, 0, fallback_from=0)], 60)
    assert taken(words) == [(0, "a", 0.1, 0.2), (0, "a", 0.3, 0.5), (0, "b", 0.5, 0.6)]


def test_words_that_come_late_find_their_sound() -> None:
    words = StreamWords(100)
    words.await_words((0, None), awaits=True)
    for start in range(0, 100, 10):
        words.passed([span(start, start // 50, start % 50)], start + 10)
        assert taken(words) == []
    words.add((0, None), [SpokenWord("a", 0.1, 0.2), SpokenWord("b", 0.5, 0.5)])
    assert taken(words) == [(0, "a", 0.1, 0.2), (0, "b", 0.5, 0.5)]


def test_a_resumed_stream_has_the_words_that_its_client_lacks() -> None:
    words = StreamWords(100, resumed_samples=20)
    words.add((0, None), [SpokenWord("a", 0.1, 0.2), SpokenWord("b", 0.3, 0.4)])
    words.passed([span(0, 0, 0)], 40)
    assert taken(words) == [(0, "b", 0.1, 0.2)]


# --- Events


def in_events(events: Sequence[Any]) -> list[SpokenWord]:
    return [SpokenWord(**word) for event in events for word in event.get("words", [])]


@pytest.mark.parametrize("form", ["pcm", "mp3", "opus"])
@pytest.mark.parametrize("pacing", ["fast", "played"])
async def test_events_have_the_words(form: str, pacing: str) -> None:
    bench = Bench(TimedSynthesizer())
    fields = {"input": f"{FIRST} {SECOND}", "response_format": form, "stream_format": "sse", "pacing": pacing}
    events = events_of((await bench.speak(**fields, word_timestamps=True)).text)
    assert_alike(in_events(events), expected((FIRST, 0.0), (SECOND, CHARACTER_S * len(FIRST))))
    assert not in_events(events_of((await bench.speak(**fields)).text))


async def test_words_come_from_the_cache_too() -> None:
    bench = Bench(TimedSynthesizer())
    first, again = [
        events_of((await bench.speak(input=FIRST, stream_format="sse", word_timestamps=True)).text) for _ in range(2)
    ]
    assert in_events(first) == in_events(again) != []
    assert len(bench.handle.answers) == 1


async def test_a_session_has_the_words_of_each_piece() -> None:
    config = {**CONFIG, "word_timestamps": True}
    got = await conversation(Bench(TimedSynthesizer()), config, text(f"{FIRST} {SECOND}"), DONE)
    events = [event for event in got[:-1] if isinstance(event, dict)]
    assert_alike(in_events(events), expected((FIRST, 0.0), (SECOND, CHARACTER_S * len(FIRST))))
    told = [(event["sentence_index"], len(event["words"])) for event in events if event["type"] == "audio.words"]
    assert told == [(0, 4), (1, 5)]
    kinds = [event["type"] for event in events]
    assert kinds.index("audio.start") < kinds.index("audio.words") < kinds.index("audio.done")


async def test_a_file_has_no_place_for_words() -> None:
    answer = await Bench(TimedSynthesizer()).speak(word_timestamps=True)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "word_timestamps_need_events"


# --- Other models


@dataclass
class HearsWords(Ear):
    """Hears every tone as the words it is given, a tenth of a second each."""

    words: str = ""
    windows: int = 0

    def __post_init__(self) -> None:
        Ear.__init__(self)

    async def transcribe(self, window: Window, index: int) -> Transcript:
        self.windows += 1
        assert window.options.word_times and window.options.language == "en"
        heard = tuple(Word(f" {w}", at / 10, (at + 1) / 10, 1.0) for at, w in enumerate(self.words.split()))
        return Transcript((Segment(self.words, 0.0, 1.0, 0.0, 0.0, words=heard),), "en")


async def test_a_recogniser_finds_the_words_of_other_models() -> None:
    bench = Bench(ear=HearsWords(words="it rained all night"))
    answer = await bench.speak(input=FIRST, stream_format="sse", word_timestamps=True)
    wanted = [SpokenWord(word, at / 10, (at + 1) / 10) for at, word in enumerate(FIRST.split()[:2])]
    assert in_events(events_of(answer.text))[:2] == wanted


async def test_a_model_without_words_needs_a_recogniser() -> None:
    deaf = Ear(RecognitionTraits(16_000, ("en",), translates=True, max_window_seconds=30.0))
    answer = await Bench(ear=deaf).speak(stream_format="sse", word_timestamps=True)
    assert answer.status_code == 400
    assert json.loads(answer.text)["error"]["code"] == "word_timestamps_not_supported"
