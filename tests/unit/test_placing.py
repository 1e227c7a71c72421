"""Words get their place in the recording: in their span, in order, without overlap; segments are about sentences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.engines.protocols import Segment, Span, Transcript, Word
from deployments.tasks.placing import LONGEST_SEGMENT_S, PAUSE_S, placed

SPANS = (Span(0.2, 10.0, 14.0), Span(4.6, 20.0, 23.0))
"""Two stretches of speech with 0.2 s of padding around each: the window is 7.8 s long."""


def segment(words: Sequence[tuple[str, float, float]]) -> Segment:
    timed = tuple(Word(text, start, end, 0.9, (number,)) for number, (text, start, end) in enumerate(words))
    text = "".join(word.text for word in timed)
    tokens = tuple(range(len(timed)))
    return Segment(text, timed[0].start, timed[-1].end, -0.2, 0.01, tokens, timed)


def segments(*found: Segment, spans: Sequence[Span] = SPANS, snap: bool = False) -> tuple[Segment, ...]:
    return placed(Transcript(found, "en"), spans, snap=snap).segments


def bounds(segments: Sequence[Segment]) -> list[tuple[str, float, float]]:
    return [(word.text, round(word.start, 3), round(word.end, 3)) for each in segments for word in each.words]


def test_a_word_lies_where_its_span_lies() -> None:
    found = segments(segment([(" one", 0.2, 0.7), (" two", 4.0, 4.2), (" three", 4.6, 5.0), (" four", 7.0, 7.6)]))
    assert bounds(found) == [
        (" one", 10.0, 10.5), (" two", 13.8, 14.0), (" three", 20.0, 20.4), (" four", 22.4, 23.0),
    ]  # fmt: skip


def test_no_word_lasts_into_a_silence() -> None:
    found = segments(segment([(" one", 0.0, 0.7), (" two", 2.0, 4.9), (" three", 5.0, 5.5), (" four", 7.5, 9.9)]))
    assert bounds(found) == [
        (" one", 10.0, 10.5), (" two", 11.8, 14.0), (" three", 20.4, 20.9), (" four", 22.9, 23.0),
    ]  # fmt: skip


def test_words_without_a_place_of_their_own_do_not_overlap() -> None:
    found = segments(segment([(" one", 1.0, 2.0), (" two", 1.5, 1.8), (" three", 1.2, 2.2)]))
    assert bounds(found) == [(" one", 10.8, 11.8), (" two", 11.8, 11.8), (" three", 11.8, 12.0)]


def test_words_near_the_ends_of_speech_reach_to_them() -> None:
    found = segments(
        segment([(" one", 0.4, 0.7), (" two", 2.0, 3.9), (" three", 5.2, 5.5), (" four", 6.5, 7.0)]), snap=True
    )
    assert bounds(found) == [
        (" one", 10.0, 10.5), (" two", 11.8, 14.0), (" three", 20.6, 20.9), (" four", 21.9, 22.4),
    ]  # fmt: skip


TIMES = st.floats(0, 12, allow_nan=False)


@given(
    times=st.lists(st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=12), max_size=3),
    lengths=st.lists(st.tuples(st.floats(0, 3), st.floats(0.05, 5), st.floats(0, 9)), min_size=1, max_size=5),
    snap=st.booleans(),
)
@settings(max_examples=200)
def test_times_are_in_order_and_in_spans(
    times: list[list[tuple[float, float]]], lengths: list[tuple[float, float, float]], snap: bool
) -> None:
    spans, offset, at = [], 0.0, 0.0
    for pad, speech, silence in lengths:
        spans.append(Span(offset + pad, at + silence, at + silence + speech))
        offset, at = offset + pad + speech, at + silence + speech
    found = segments(*(segment([(" w.", *time) for time in each]) for each in times), spans=spans, snap=snap)
    words = [word for each in found for word in each.words]
    assert len(words) == sum(map(len, times))
    edges = [time for word in words for time in (word.start, word.end)]
    assert edges == sorted(edges)
    assert all(any(s.start_s <= w.start <= w.end <= s.end_s + 1e-9 for s in spans) or w.start == w.end for w in words)
    for before, after in pairwise(found):
        assert before.end <= after.start
    for each in found:
        assert (each.start, each.end) == (each.words[0].start, each.words[-1].end)
        assert each.text == "".join(word.text for word in each.words)


def test_a_segment_ends_with_its_sentence_and_not_with_an_abbreviation() -> None:
    words = [" Mr.", " Hill", " paid", " 4.50.", " Did", " he?", " Yes."]
    found = segments(segment([(text, 0.2 + at / 4, 0.4 + at / 4) for at, text in enumerate(words)]))
    assert [each.text for each in found] == [" Mr. Hill paid 4.50.", " Did he?", " Yes."]
    assert [each.tokens for each in found] == [(0, 1, 2, 3), (4, 5), (6,)]
    assert {(each.average_log_probability, each.no_speech_probability) for each in found} == {(-0.2, 0.01)}
    assert {each.language for each in found} == {"en"}


def test_a_sentence_of_a_script_without_spaces_ends_too() -> None:
    words = ["今日", "は", "。", "明日", "は", "？"]
    found = segments(segment([(text, 0.2 + at / 4, 0.4 + at / 4) for at, text in enumerate(words)]))
    assert [each.text for each in found] == ["今日は。", "明日は？"]


def test_a_long_pause_ends_a_segment() -> None:
    within = segment([(" one", 0.2, 0.5), (" two", 0.5 + PAUSE_S, 1.2), (" three", 1.3 + PAUSE_S, 2.0)])
    assert [each.text for each in segments(within)] == [" one two", " three"]
    between = segment([(" one", 3.0, 4.1), (" two", 4.7, 5.2)])
    assert [each.text for each in segments(between)] == [" one", " two"]


def test_a_segment_is_not_too_long_and_is_cut_at_a_pause() -> None:
    words = [(f" w{at}", at * 0.5 + 0.05 * (at == 20), at * 0.5 + 0.4) for at in range(59)]
    found = segments(segment(words), spans=[Span(0.0, 100.0, 130.0)])
    assert max(each.end - each.start for each in found) <= LONGEST_SEGMENT_S
    assert [each.words[0].text for each in found] == [" w0", " w20", " w50"]


def test_a_sentence_without_words_reaches_over_its_spans() -> None:
    plain = Segment(" All.", 0.0, 7.8, -0.1, 0.0, (5, 6))
    (found,) = segments(plain)
    assert (found.text, found.start, found.end, found.tokens) == (" All.", 10.0, 23.0, (5, 6))
    first, second = (Segment("x", *times, 0.0, 0.0) for times in ((0.0, 2.2), (2.2, 6.0)))
    assert [(each.start, each.end) for each in segments(first, second)] == [(10.0, 12.0), (12.0, pytest.approx(21.4))]


def test_sentences_without_words_are_cut_by_length_and_at_pauses() -> None:
    plain = Segment(" One two three four. Five, six, seven. Eight nine.", 0.0, 7.8, -0.1, 0.02, (5, 6))
    found = segments(plain)
    assert [each.text for each in found] == ["One two three four.", "Five, six, seven.", "Eight nine."]
    # The first ends at 3.1 s of the window by its length, 1.3 s before the pause between the spans.
    assert [(each.start, round(each.end, 2)) for each in found[:1]] == [(10.0, 14.0)]
    assert found[1].start == 20.0
    assert found[1].end == found[2].start
    assert found[2].end == 23.0
    assert {(each.average_log_probability, each.no_speech_probability, each.tokens) for each in found} == {
        (-0.1, 0.02, ())
    }


def test_segments_keep_their_own_language() -> None:
    """A window that was transcribed in halves has one of each."""
    french = Segment(" Oui.", 0.2, 4.0, -0.1, 0.0, language="fr")
    plain = Segment(" Yes.", 4.7, 7.0, -0.1, 0.0)
    assert [each.language for each in segments(french, plain)] == ["fr", "en"]


def test_nothing_is_placed_nowhere() -> None:
    assert placed(Transcript((), "de"), SPANS) == Transcript((), "de")
