"""Which letters of a text a voice reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployments.errors import MotetError
from deployments.settings import PieceSettings
from deployments.tasks.piece_preparation import PieceMaker
from deployments.text.lexicon import Lexicon
from deployments.text.normalization.rules import ReadingRules
from deployments.text.scripts import ReadableLetters
from tests.unit.fakes import TRAITS


@pytest.mark.parametrize(
    ("text", "language", "unread", "scripts"),
    [
        ("Hello, world.", "en-US", 0.0, ""),
        ("Crème brûlée, Ødegård, 42 % — “naïve”", "en-US", 0.0, ""),
        ("Привет, мир!", "en-US", 1.0, "Cyrillic"),
        ("Привет, мир!", "ru", 0.0, ""),
        ("Привет, Anna", "en-GB", 0.6, "Cyrillic"),
        ("今日は good です", "en", 5 / 9, "Han, Hiragana"),
        ("今日は good です", "ja", 0.0, ""),
        ("안녕 今日は", "ja", 0.4, "Hangul"),
        ("नमस्ते", "hi", 0.0, ""),
        ("Привет", "und", 0.0, ""),
        ("10 µm, 2ª, ½, x²", "en", 0.0, ""),
        ("π r²", "en", 0.5, "Greek"),
        ("...", "en", 0.0, ""),
    ],
)
def test_letters_that_a_voice_does_not_read(text: str, language: str, unread: float, scripts: str) -> None:
    letters = ReadableLetters()
    letters.add(text, language)
    assert letters.unread_share == pytest.approx(unread)
    assert set(letters.scripts.split(", ")) == set(scripts.split(", "))


def test_parts_are_counted_together() -> None:
    letters = ReadableLetters()
    letters.add("Да", "en")
    letters.add("Yes indeed", "en")
    letters.add("Да", "ru")
    assert letters.letters == 13
    assert letters.unread_share == pytest.approx(2 / 13)


PIECES = PieceSettings()


@pytest.fixture
def english(monkeypatch: pytest.MonkeyPatch) -> PieceMaker:
    """Of a voice of English whose model has rules for letters."""
    monkeypatch.setattr("deployments.tasks.piece_preparation.language_of", lambda traits, voice: "en-US")
    lexicon = Lexicon({"мир": "/mir/"})
    return PieceMaker(replace(TRAITS, phonemes=True), "ada", (lexicon,), ReadingRules())


def test_a_text_of_which_most_cannot_be_read_is_refused(english: PieceMaker) -> None:
    with pytest.raises(MotetError) as caught:
        english.of_text("Привет, как дела? Ok.", PIECES)
    assert (caught.value.failure.kind, caught.value.failure.code) == ("invalid", "script_not_supported")
    assert "'ada' of the language en-US does not read Cyrillic. Send a text in its script" in str(caught.value)


def test_a_document_of_which_most_cannot_be_read_is_refused(english: PieceMaker) -> None:
    with pytest.raises(MotetError, match="does not read Cyrillic"):
        english.of_ssml("<speak>Привет, как дела?</speak>", PIECES, {})


def test_scripts_of_a_few_words_are_named(english: PieceMaker) -> None:
    assert english.of_text("The word is дом, and it means house.", PIECES).unread_scripts == "Cyrillic"


def test_a_word_with_a_reading_can_be_read(english: PieceMaker) -> None:
    assert english.of_text("The word is мир.", PIECES).unread_scripts == ""


def test_a_model_without_rules_for_letters_reads_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.tasks.piece_preparation.language_of", lambda traits, voice: "en-US")
    found = PieceMaker(TRAITS, "ada", (), ReadingRules()).of_text("Привет, как дела?", PIECES)
    assert (len(found.pieces) > 0, found.unread_scripts) == (True, "")
