"""Words of a lexicon are found whole, the longest first, and their IPA reaches models that read it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.engines.kokoro.phonemes import PhonemizerLanguage, Phonemizers
from deployments.engines.word_durations import PhonemeLine, PhonemeText
from deployments.errors import MotetError
from deployments.text.english import readable
from deployments.text.lexicon import Lexicon, parse_entry
from deployments.text.phonemes import misaki_phonemes, pronounced, without_pronunciations
from deployments.text.spoken import spoken_of

WORDS = {
    "sql": "sequel",
    "SQL Server": "sequel server",
    "US": "United States",
    "C++": "C plus plus",
    ".NET": "dot net",
    "tomato": "/təˈmeɪtoʊ/",
}


def spoken(text: str, *, phonemes: bool = True) -> str:
    return spoken_of(text, Lexicon(WORDS).readings(text, phonemes=phonemes), str)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SQL and Sql, sql.", "sequel and sequel, sequel."),
        ("SQL Server runs.", "sequel server runs."),
        ("MySQL, SQLite and sql_1", "MySQL, SQLite and sql_1"),
        ("Tell us in the US.", "Tell us in the United States."),
        ("C++ and .NET", "C plus plus and dot net"),
        ("A Tomato's red.", "A [Tomato](/təˈmeɪtoʊ/)'s red."),
        ("", ""),
    ],
)
def test_words_are_found(text: str, expected: str) -> None:
    assert spoken(text) == expected


def test_a_model_without_phonemes_gets_the_word() -> None:
    assert spoken("A tomato.", phonemes=False) == "A tomato."
    assert without_pronunciations("A [tomato](/təˈmeɪtoʊ/)'s [red] (one).") == "A tomato's [red] (one)."


@given(st.text(max_size=300))
def test_a_text_without_words_of_the_lexicon_stays_as_it_is(text: str) -> None:
    assert spoken_of(text, Lexicon({"qzx9": "never"}).readings(text, phonemes=True), str) == text.replace(
        "qzx9", "never"
    )


def test_a_large_lexicon_of_like_words_is_fast() -> None:
    lexicon = Lexicon({f"a {'b' * (n % 90)} {n}": "x" for n in range(10_000)})
    started = time.process_time()
    assert not list(lexicon.readings("a " * 25_000, phonemes=True))
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("ipa", "american", "british"),
    [
        ("təˈmeɪtoʊ", "təmˈATO", "təmˈAtQ"),
        ("təˈmɑːtəʊ", "təmˈɑtO", "təmˈɑːtQ"),
        ("ˈstɹɛŋθ", "stɹˈɛŋθ", "stɹˈɛŋθ"),
        ("d͡ʒʌd͡ʒ", "ʤʌʤ", "ʤʌʤ"),
        ("ˈnɜː.sɚ", "nˈɜsəɹ", "nˈɜːsə"),
    ],
)
def test_ipa_in_the_alphabet_of_the_models(ipa: str, american: str, british: str) -> None:
    assert misaki_phonemes(ipa, british=False) == american.replace("T", "t")
    assert misaki_phonemes(ipa, british=True) == british


def test_a_reader_of_phonemes_gets_them_whole() -> None:
    assert readable("No. 5 [tomato](/təˈmeɪtoʊ/) no.", british=False) == "No. 5 [tomato](/təmˈAtO/) no ."


@pytest.mark.parametrize(("word", "ipa"), [("", "a"), ("word", "")])
def test_a_pronunciation_that_cannot_be_written_is_left_out(word: str, ipa: str) -> None:
    assert pronounced(word, ipa) == word


def test_entries_of_the_command_line() -> None:
    assert parse_entry("SQL = sequel") == ("SQL", "sequel")
    with pytest.raises(MotetError, match="word=reading"):
        parse_entry("SQL")


def test_kokoro_reads_pronunciations_in_english_only() -> None:
    def as_written(text: str) -> PhonemeText:
        return PhonemeText((PhonemeLine(text),))

    same = PhonemizerLanguage("xx", (lambda: as_written,), "")
    phonemizers = Phonemizers({"a": same, "f": same})
    assert phonemizers.of("A [b](/c/).", "a") == as_written("A [b](/c/).")
    assert phonemizers.of("A [b](/c/).", "f") == as_written("A b.")
    (line,) = Phonemizers().of("My [tomato](/təˈmeɪtoʊ/).", "a").lines
    assert "təmˈAtO" in line.phonemes
