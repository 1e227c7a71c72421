"""Word times from the durations of phonemes, on phonemes and sounds that are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from deployments.engines.protocols import SpokenWord
from deployments.engines.word_durations import SPACE, PhonemeLine, PieceWords, cut_line, in_one_line, text_of_tokens

RATE = 1000
PHONEME_S = 0.1


@dataclass
class Token:
    """What a phonemizer gives."""

    text: str
    phonemes: str | None
    whitespace: str = ""


def said(*lines: PhonemeLine, piece: str, read: tuple[str, ...], loud: slice = slice(None)) -> list[SpokenWord]:
    """The words of a piece whose phonemes take 100 ms each."""
    words, found = PieceWords(piece, read, RATE), list[SpokenWord]()
    for number, line in enumerate(lines, 1):
        count = len(line.phonemes)
        samples = np.zeros(round(count * PHONEME_S * RATE), np.float32)
        samples[loud] = 1.0
        found += words.spoken(line, [PHONEME_S * at for at in range(count + 1)], samples, last=number == len(lines))
    return [SpokenWord(word.text, round(word.start, 3), round(word.end, 3)) for word in found]


def test_tokens_become_lines_and_words() -> None:
    dollars = [Token("Pay", "pA", " "), Token("$", ""), Token("5", "fˈIv dˈɑləɹz"), Token("!", "!")]
    text = text_of_tokens([dollars, [Token("…", None)], [Token("So", "sO")]])
    assert [line.phonemes for line in text.lines] == ["pA fˈIv dˈɑləɹz!", "sO"]
    assert text.words == ("Pay", "$5!", "…", "So")
    assert text.lines[0].words[:5] == (0, 0, SPACE, 1, 1)
    assert text.lines[1].words == (3, 3)


def test_a_line_can_be_cut_and_joined() -> None:
    line = PhonemeLine("ab cd ef", (0, 0, SPACE, 1, 1, SPACE, 2, 2))
    parts = list(cut_line(line, ["ab cd", "e", "f"]))
    assert [part.words for part in parts] == [(0, 0, SPACE, 1, 1), (2,), (2,)]
    text = text_of_tokens([[Token("a", "a")], [Token("b", "b")]])
    assert in_one_line(text).lines == (PhonemeLine("a b", (0, SPACE, 1)),)


def test_a_word_goes_from_its_first_to_its_last_sound() -> None:
    line = PhonemeLine("ˈab, — cd.", (0, 0, 0, 0, SPACE, 1, SPACE, 2, 2, 2))
    words = said(line, piece="Ab, — cd.", read=("Ab,", "—", "cd."))
    assert words == [SpokenWord("Ab,", 0, 0.3), SpokenWord("—", 0.3, 0.3), SpokenWord("cd.", 0.65, 0.9)]


def test_silence_at_the_ends_is_no_part_of_a_word() -> None:
    words = said(PhonemeLine("abc", (0, 0, 0)), piece="abc", read=("abc",), loud=slice(50, 210))
    assert words == [SpokenWord("abc", 0.05, 0.21)]


def test_times_go_on_over_the_lines_of_a_piece() -> None:
    lines = PhonemeLine("ab cd", (0, 0, SPACE, 1, 1)), PhonemeLine("de", (1, 2))
    words = said(*lines, piece="5 d e", read=("five", "d", "e"))
    assert words == [SpokenWord("5", 0, 0.25), SpokenWord("d", 0.25, 0.5), SpokenWord("e", 0.6, 0.7)]


@pytest.mark.parametrize("samples", [0, 3])
def test_a_line_without_sound_has_words_without_length(samples: int) -> None:
    words = PieceWords("a b", ("a", "b"), RATE)
    found = words.spoken(PhonemeLine("a", (0,)), [0.0, 0.0], np.zeros(samples, np.float32), last=True)
    assert [word.text for word in found] == ["a", "b"]
    assert all(0 <= word.start == word.end <= samples / RATE for word in found)


def test_a_phonemizer_that_says_nothing_about_words_gives_no_times() -> None:
    words = PieceWords("a b", (), RATE)
    assert words.spoken(PhonemeLine("a"), [0.0, 1.0], np.ones(9, np.float32), last=True) == []
