from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.text.sample_sentences import LONG_TEXT, SENTENCES
from deployments.text.word_error_rate import ErrorCount, errors, normalise, word_error_rate

SAME = [
    ("It costs $9.99.", "It costs 9 dollars and 99 cents"),
    ("It costs $9.99.", "it costs $9 and 99 cents"),
    ("It costs $12.50.", "It costs $12 and $0.50."),
    ("It costs $9.99.", "it costs nine dollars ninety-nine cents"),
    ("$0.50", "fifty cents"),
    ("$5.05", "five dollars and five cents"),
    ("$1", "one dollar"),
    ("$1.5 million", "1.5 million dollars"),
    ("£3.50", "three pounds and 50 pence"),
    ("at 7:30 pm", "at 7.30 p.m."),
    ("at 7:30 pm", "at seven thirty PM"),
    ("at 7:00 p.m.", "at seven pm"),
    ("at 7:05 a.m.", "at seven oh five a.m."),
    ("at 7:00", "at seven o'clock"),
    ("at 12:30", "at twelve thirty"),
    ("45 percent", "45%"),
    ("45%", "forty-five per cent"),
    ("March 4th, 2024", "march fourth twenty twenty four"),
    ("March 4, 2024", "March the fourth, two thousand and twenty-four"),
    ("March 22, 1999", "march twenty second nineteen ninety-nine"),
    ("Jan. 5", "January fifth"),
    ("on the 5th of June", "on 5 June"),
    ("on the 5th of June", "on 5th June"),
    ("on the 2nd of May", "on the second of May"),
    ("the 21st and the 23rd", "the twenty-first and the twenty third"),
    ("in the 1990s", "in the nineteen nineties"),
    ("in 1905", "in nineteen oh five"),
    ("1,250 people", "one thousand two hundred and fifty people"),
    ("1,250 people", "1250 people"),
    ("105,003", "a hundred and five thousand and three"),
    ("2 million", "2,000,000"),
    ("between one hundred and five hundred", "between 100 and 500"),
    ("3.14", "three point one four"),
    ("version 2.60.0", "version two point six zero point zero"),
    ("4 7 1 9", "four, seven, one, nine"),
    ("-5°C", "minus five degrees Celsius"),
    ("5 km at 60 mph", "five kilometres at sixty miles per hour"),
    ("Dr. Smith and Mr. Jones", "doctor Smith and mister Jones"),
    ("St. Mary's", "Saint Mary's"),
    ("pears, etc.", "pears et cetera"),
    ("the U.S. and e.g. the UK", "the US, and E. G. the U.K."),
    ("J. K. Rowling", "JK Rowling"),
    ("No. 5", "number five"),
    ("bob@example.com", "Bob at example dot com"),
    ("sea shells by the sea shore, and shells", "seashells by the seashore and shells"),
    ("It’s OK—really!", "it's okay, really"),
    ("", ""),
    ("...", ""),
]


@pytest.mark.parametrize(("reference", "heard"), SAME, ids=[f"{a} = {b}" for a, b in SAME])
def test_spelling_is_no_error(reference: str, heard: str) -> None:
    assert word_error_rate(reference, heard) == 0
    assert word_error_rate(heard, reference) == 0


WRONG = {
    "substitution": ("the cat sat down", "the cat sat town", 4, 1),
    "deletion": ("the cat sat down", "the cat down", 4, 1),
    "insertion": ("the cat sat down", "the big cat sat down", 4, 1),
    "all at once": ("the cat sat down", "big the cat lay", 4, 3),
    "wrong number": ("we sold 1,250 of them", "we sold 1,215 of them", 5, 1),
    "fifteen for fifty": ("fifty people", "15 people", 2, 1),
    "wrong time": ("at 7:30 pm", "at 7:13 pm", 3, 1),
    "morning for evening": ("at 7:30 pm", "at 7:30 am", 3, 1),
    "wrong coins": ("$9.99", "$9.95", 4, 1),
    "wrong currency": ("$9", "€9", 2, 1),
    "wrong day": ("March 4th, 2024", "March 5th, 2024", 2, 1),
    "lost decimal point": ("82.5 degrees", "825 degrees", 2, 1),
    "ordinal for cardinal": ("the fifth man", "the five man", 3, 1),
    "contraction": ("I can't go", "I can go", 3, 1),
    "contraction spelled out": ("do you know why it doesn't work", "do you know why it does not work", 7, 2),
    "plural": ("two apples", "two apple", 2, 1),
    "a compound does not excuse its neighbour": ("sea shells here", "seashell here", 3, 2),
    "nothing heard": ("the cat sat down", "", 4, 4),
    "nothing said": ("", "thank you", 0, 2),
}


@pytest.mark.parametrize(("reference", "heard", "words", "wrong"), WRONG.values(), ids=WRONG.keys())
def test_real_errors_count(reference: str, heard: str, words: int, wrong: int) -> None:
    assert errors([reference], [heard]) == ErrorCount(words, wrong)
    assert word_error_rate(reference, heard) == wrong / max(words, 1)


def test_pools_over_words_not_over_utterances() -> None:
    pooled = errors(["one big red bus", "yes"], ["one big red bus", "no"])
    assert pooled == ErrorCount(words=5, errors=1)
    assert pooled.rate == 0.2
    assert errors([], []).rate == 0


def test_refuses_sets_of_different_size() -> None:
    with pytest.raises(ValueError, match="shorter"):
        errors(["a", "b"], ["a"])


@given(st.text(st.sampled_from("abz 019.,:$%-'’°\n") | st.characters(), max_size=60))
def test_any_text_equals_itself(text: str) -> None:
    assert errors([text], [text]) == ErrorCount(len(normalise(text)), 0)


@given(st.integers(0, 10**13))
def test_digits_with_and_without_separators_are_one_number(number: int) -> None:
    assert normalise(f"{number:,}") == normalise(str(number)) == [str(number)]


def test_benchmark_texts() -> None:
    assert len(SENTENCES) == len(set(SENTENCES)) == 19
    assert abs(len(LONG_TEXT.split()) - 1000) <= 10
    assert errors([*SENTENCES, LONG_TEXT], [*SENTENCES, LONG_TEXT]).errors == 0
