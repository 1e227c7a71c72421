"""Which words of a written text belong to which spoken words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.text.word_mapping import WordMapping, words_in


def mapped(spoken: str, written: str) -> list[tuple[str, float, float]]:
    """The written words with their times, if spoken word number n lasts from n to n + 0.9."""
    said, seen = words_in(spoken), words_in(written)
    times = WordMapping(said, seen).add([(float(at), at + 0.9) for at in range(len(said))])
    return [(word, round(start, 2), round(end, 2)) for word, (start, end) in zip(seen, times, strict=True)]


@pytest.mark.parametrize(
    ("spoken", "written", "times"),
    [
        ("yes no", "Yes, no!", [(0, 0.9), (1, 1.9)]),
        ("doctor Smith paid forty-two dollars", "Dr. Smith paid $42", [(0, 0.9), (1, 1.9), (2, 2.9), (3, 4.9)]),
        ("five million dollars now", "$5 million now", [(0, 0.9), (1, 2.9), (3, 3.9)]),
        ("see git dot com slash a now", "see git.com/a now", [(0, 0.9), (1, 5.9), (6, 6.9)]),
        ("so five kilometers", "so 5 km", [(0, 0.9), (1, 1.9), (2, 2.9)]),
        ("yes no", "Yes — no 🙂", [(0, 0.9), (0.9, 0.9), (1, 1.9), (1.9, 1.9)]),
        ("yes , no", "yes no", [(0, 1.9), (2, 2.9)]),
        ("a b", "", []),
        ("", "🙂 a", [(0, 0), (0, 0)]),
        ("abcd", "ab cd", [(0, 0.45), (0.45, 0.9)]),
        ("well yes", "yes", [(0, 1.9)]),
    ],
)
def test_words_get_the_times_of_what_is_spoken_of_them(
    spoken: str, written: str, times: list[tuple[float, float]]
) -> None:
    assert [(start, end) for _, start, end in mapped(spoken, written)] == times


def test_a_pronunciation_counts_as_its_word() -> None:
    assert words_in("a [New York](/nuː jɔːk/) b") == ["a", "New", "York", "b"]
    assert words_in("see [this](https://example.org)") == ["see", "[this](https://example.org)"]


def test_words_are_given_as_soon_as_they_are_known() -> None:
    mapping = WordMapping(["two", "dollars", "please", "now"], ["$2", "please", "now"])
    assert mapping.add([(0, 1)]) == []
    assert mapping.add([(1, 2)]) == [(0, 2)]
    assert mapping.add([(2, 3), (3, 4)]) == [(2, 3), (3, 4)]


WORDS = st.lists(st.sampled_from(["a", "b", "cat", "12", "—", "$5", "five", "dollars", "the", "🙂"]), max_size=12)


@given(WORDS, WORDS, st.integers(1, 5))
def test_any_two_texts_map_every_word_once_in_order(spoken: list[str], written: list[str], step: int) -> None:
    mapping = WordMapping(spoken, written)
    all_times = [(float(at), at + 0.9) for at in range(len(spoken))]
    times = [time for at in range(0, len(spoken) + 1, step) for time in mapping.add(all_times[at : at + step])]
    assert len(times) == len(written)
    edges = [edge for time in times for edge in time]
    assert edges == sorted(edges)
    assert all(0 <= edge <= len(spoken) for edge in edges)
