"""Which words two hearings agree on, and which follow the committed ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.text.agreement import agreed, overlap, plain, words_in

WORDS = st.lists(st.integers(0, 10**6).map(lambda number: f"w{number}"), unique=True, max_size=12)


@pytest.mark.parametrize(
    ("before", "now", "count"),
    [
        ("", "", 0),
        ("The cat", "the cat, sat", 2),
        ("the cat sat.", "the cat sits", 2),
        ("a b", "b a", 0),
        ("– so", "– so", 2),
        ("今日は晴れ", "今日は雨", 3),
    ],
)
def test_agreement_is_the_common_beginning_without_case_and_punctuation(before: str, now: str, count: int) -> None:
    assert agreed(words_in(before), words_in(now)) == count


@pytest.mark.parametrize(
    ("committed", "heard", "new"),
    [
        ("", "a b", "a b"),
        ("a b", "A, b. c", "c"),
        ("a b c", "a b", ""),  # a hearing that is shorter says nothing new
        ("a b c", "", ""),
        ("a b c", "b c d", "d"),  # the first word is lost
        ("the cat", "the the cat sat", "sat"),
        ("a b c", "a x c d", "d"),
        ("a b c", "a b x d", "d"),
        ("a b", "x y", ""),
        ("in an other place", "in another place we go", "we go"),
    ],
)
def test_new_words_are_those_after_the_committed_ones(committed: str, heard: str, new: str) -> None:
    words = words_in(heard)
    _, said = overlap(words_in(committed), words)
    assert " ".join(words[said:]) == new


@given(WORDS, st.data())
def test_a_hearing_that_agrees_gives_exactly_the_rest(words: list[str], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(words)))
    assert overlap(words[:count], words) == (count, count)
    assert overlap(words, words[:count]) == (count, count)


@given(WORDS.filter(lambda words: len(words) > 5), st.data())
def test_one_word_heard_otherwise_loses_and_repeats_nothing(words: list[str], data: st.DataObject) -> None:
    count = data.draw(st.integers(3, len(words)))
    at = data.draw(st.integers(0, count - 2))
    for other in ([], ["other"], ["other", words[at]]):
        heard = words[:at] + other + words[at + 1 :]
        _, said = overlap(words[:count], heard)
        assert heard[said:] == words[count:]


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_the_alignment_covers_one_of_both(committed: list[str], heard: list[str]) -> None:
    covered, said = overlap(committed, heard)
    assert 0 <= covered <= len(committed)
    assert 0 <= said <= len(heard)
    assert covered == len(committed) or said == len(heard)


@given(st.text())
def test_a_word_is_never_empty(text: str) -> None:
    assert all(plain(word) for word in words_in(text))
