"""A transcript becomes phrases: words between pauses, in order, each with what follows it."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from deployments.engines.protocols import Segment, Transcript, Word
from deployments.settings import RevoicingSettings
from deployments.tasks.diarization import SpeakerTurn
from deployments.tasks.phrases import Phrase, PhraseCutter, with_speakers_found
from deployments.tasks.transcription import TranscriptWindow

SETTINGS = RevoicingSettings(pause_s=0.3, max_phrase_s=10.0)


def words(*times: tuple[str, float, float]) -> Segment:
    """A segment of words."""
    found = tuple(Word(f" {text}", start, end, 1.0) for text, start, end in times)
    return Segment("".join(word.text for word in found), times[0][1], times[-1][2], 0.0, 0.0, words=found)


def window(until_s: float, *segments: Segment, language: str = "en") -> TranscriptWindow:
    return TranscriptWindow(Transcript(segments, language), until_s)


def cut(*windows: TranscriptWindow) -> list[Phrase]:
    cutter = PhraseCutter(SETTINGS)
    return [phrase for each in windows for phrase in cutter.push(each)] + cutter.finish()


def test_a_pause_ends_a_phrase() -> None:
    segment = words(("one", 0.0, 0.4), ("two", 0.5, 0.9), ("three", 1.2, 1.5))
    assert cut(window(2.0, segment)) == [
        Phrase(0, "one two", 0.0, 0.9, 1.2, "en"),
        Phrase(1, "three", 1.2, 1.5, 2.0, "en"),
    ]


def test_sentences_without_a_pause_are_one_phrase_up_to_its_length() -> None:
    found = cut(window(30.0, words(("One.", 0.0, 4.0)), words(("Two.", 4.1, 9.0)), words(("Three.", 9.1, 12.0))))
    assert [(each.text, each.start_s, each.end_s, each.next_s) for each in found] == [
        ("One. Two.", 0.0, 9.0, 9.1),
        ("Three.", 9.1, 12.0, 30.0),
    ]


def test_a_phrase_continues_over_the_border_of_two_windows() -> None:
    found = cut(window(5.0, words(("one", 4.0, 5.0))), window(8.0, words(("two", 5.1, 6.0))))
    assert [(each.text, each.end_s, each.next_s) for each in found] == [("one two", 6.0, 8.0)]


def test_a_segment_without_the_times_of_words_is_a_phrase() -> None:
    segments = [Segment("One.", 0.0, 1.0, 0.0, 0.0), Segment("Two.", 2.0, 3.0, 0.0, 0.0, language="de")]
    assert [(each.text, each.language) for each in cut(window(3.0, *segments))] == [("One.", "en"), ("Two.", "de")]


def test_another_speaker_begins_a_phrase() -> None:
    talk = words(("one", 0.0, 0.4), ("two", 0.5, 0.9), ("three", 1.0, 1.4))
    turns = (SpeakerTurn(0.0, 0.95, "A"), SpeakerTurn(0.95, 1.4, "B"))
    whole = with_speakers_found([window(1.0, talk), TranscriptWindow(Transcript((), "en"), 2.0, turns=turns)])
    assert [(each.text, each.speaker, each.language, each.next_s) for each in cut(whole)] == [
        ("one two", "A", "en", 1.0),
        ("three", "B", "en", 2.0),
    ]


def test_a_phrase_before_a_long_silence_is_known_before_the_next_one() -> None:
    cutter = PhraseCutter(SETTINGS)
    assert cutter.push(window(2.0, words(("one", 0.0, 1.0)))) == []
    assert cutter.push(window(32.0)) == [Phrase(0, "one", 0.0, 1.0, 32.0, "en")]
    assert cutter.finish() == []
    assert cutter.recording_s == 32.0


def test_sound_without_words_is_no_phrase() -> None:
    assert cut(window(3.0, words(("...", 0.0, 1.0)), words(("♪", 1.5, 2.0))), window(9.0)) == []


@given(st.lists(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 8)), max_size=5), max_size=5))
def test_every_word_is_in_one_phrase_and_phrases_do_not_overlap(parts: list[list[tuple[float, float]]]) -> None:
    """`parts` are windows of words, each with the pause before it and its length."""
    now_s, numbers, windows = 0.0, itertools.count(), []
    for part in parts:
        found = []
        for pause_s, length_s in part:
            now_s += pause_s
            found.append(words((f"w{next(numbers)}", now_s, now_s + length_s)))
            now_s += length_s
        windows.append(window(now_s, *found))
    phrases = cut(*windows)
    assert " ".join(each.text for each in phrases).split() == [f"w{at}" for at in range(next(numbers))]
    assert [each.index for each in phrases] == list(range(len(phrases)))
    for phrase, after in itertools.pairwise(phrases):
        assert phrase.start_s <= phrase.end_s <= phrase.next_s <= after.start_s
    assert all(each.end_s <= each.next_s <= now_s for each in phrases)
    assert all(each.end_s - each.start_s <= 10.0 or " " not in each.text for each in phrases)
