"""Markdown is read as text, however it arrives, and lines without punctuation become phrases."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from deployments.settings import PieceSettings
from deployments.text.normalization.cutter import WrittenTextCutter, cut_written_text
from deployments.text.normalization.markdown import MarkdownReader
from deployments.text.normalization.rules import ReadingRules
from deployments.text.sample_sentences import LONG_TEXT, SENTENCES
from deployments.text.segmentation import cut_into_pieces
from tests.unit.growth import check_growth
from tests.unit.odd_inputs import ODD

TEXTS = {
    "# The weather\n\nIt is **very** *warm*.": "The weather\n\nIt is very warm.",
    "- one\n* two\n+ three\n1. four": "one,\ntwo,\nthree\n\n1. four",
    "Use `my_var` or snake_case, _not_ __this__.": "Use my_var or snake_case, not this.",
    "See [the docs](http://example.org/a_b), ~~now~~ then.": "See the docs, now then.",
    'See [the docs](http://example.org "The title of it") now.': "See the docs now.",
    "See [docs][1].\n\n[1]: http://example.org\n\nEnd.": "See docs.\n\nEnd.",
    "```python\nx = 1\n```\nDone.": "x = 1\n\nDone.",
    "> It is 3 > 2, minus - 1.": "It is 3 > 2, minus - 1.",
    "": "",
    "Plain text, with 5 #1 hits.": "Plain text, with 5 #1 hits.",
    "5 * 3 and 2*3*4 and **5**": "5 * 3 and 2*3*4 and 5",
    "| A | B |\n|---|:-:|\n| c d | e |": "A, B\n\nc d, e",
    "|A|B|\n|--|--|\n|c|d|": "A, B\n\nc, d",
    "A [x] b, [sic], ![alt text](a.png).": "A x b, sic, alt text.",
    "Tom &amp; Jerry<br>\nA \\*star\\*": "Tom & Jerry,\nA *star*",
    "Title\n=====\n\nText.": "Title\n\nText.",
    "One.\n\n---\n\nTwo.": "One.\n\nTwo.",
    "Note[^1] this.": "Note this.",
    "`__init__.py` runs": "__init__.py runs",
    "<https://example.com> works": "https://example.com works",
}
LINES = {
    "Apple\nbanana\norange": "Apple,\nbanana,\norange",
    "A line of a letter that somebody wrote\nAnother line": "A line of a letter that somebody wrote\n\nAnother line",
    "A paragraph that was wrapped by an editor at column\nseventy two, as all are.": (
        "A paragraph that was wrapped by an editor at column\nseventy two, as all are."
    ),
    "Hello.\nYou there": "Hello.\nYou there",
    "りんご\nバナナ": "りんご\n\nバナナ",
    "a\n\nb": "a\n\nb",
}
RULES = ReadingRules()


def read(text: str, size: int = 10_000, rules: ReadingRules = RULES) -> str:
    reader = MarkdownReader(rules)
    parts = [reader.write(text[at : at + size]) for at in range(0, len(text), size)]
    return "".join([*parts, reader.finish()])


@pytest.mark.parametrize(("text", "plain"), [*TEXTS.items(), *LINES.items()])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_only_words_are_left(text: str, plain: str, size: int) -> None:
    assert read(text, size).rstrip() == plain


@given(st.text(alphabet="ab1 \n*_`#[]()|-.>~<&;\\!", max_size=80), st.integers(1, 7))
def test_the_text_does_not_depend_on_how_it_arrives(text: str, size: int) -> None:
    assert read(text, size) == read(text)


@given(st.text(max_size=200))
def test_no_word_is_lost_without_signs(text: str) -> None:
    plain = "".join(letter for letter in text if letter.isalnum() or letter in " ")
    assert read(plain).split() == plain.split()


@pytest.mark.parametrize("text", [text for text in TEXTS if "|" not in text and "5 *" not in text and "[^" not in text])
def test_the_words_are_those_of_markdown_it(text: str) -> None:
    def words(plain: str) -> list[str]:
        return "".join(letter if letter.isalnum() or letter == "_" else " " for letter in plain).split()

    found: list[str] = []
    for token in MarkdownIt().enable("strikethrough").parse(text):
        if token.type == "fence":
            found.append(token.content)
        for child in token.children or ():
            found.append(child.content if child.type != "softbreak" else " ")
            if child.type == "image":
                found[-1] = child.content
    assert (
        sorted(word for word in words(read(text)) if word not in ("1", "br"))
        == sorted(word for word in words(" ".join(found)) if word not in ("1", "br"))
        or "<br>" in text
    )


def test_letters_leave_at_once_and_no_word_is_held_for_ever() -> None:
    reader = MarkdownReader(RULES)
    assert reader.write("It **rai") == "It"
    assert reader.write("ned** all") == " rained all"
    assert len(reader.write("x" * 1000)) > 900


def test_a_text_that_pauses_ends_with_its_space_and_goes_on() -> None:
    cutter = WrittenTextCutter(PieceSettings(), RULES)
    cutter.write("**Good** morning. It is ")
    cutter.flush_words()
    assert list(cutter.settled()) == ["Good morning. It is"]
    cutter.write("a lo")
    cutter.flush_words()
    cutter.write("ng day.\n\n# End")
    cutter.flush()
    assert list(cutter.settled()) == ["a", "long day.", "End"]


@pytest.mark.parametrize("text", [LONG_TEXT[:2000], *SENTENCES[:20]])
def test_a_text_without_markdown_is_cut_as_without_the_reader(text: str) -> None:
    assert cut_written_text(text, PieceSettings(), RULES) == cut_into_pieces(text, PieceSettings())


def test_rules_that_are_off() -> None:
    text = "# A *b*\nc"
    assert read(text, rules=RULES.changed({"markdown": False})) == text
    assert read("# A b\nc", rules=RULES.changed({"markdown": False})) == "# A b,\nc"
    assert read("# A *b*\nc", rules=RULES.changed({"lines": False})) == "A b\n\nc"
    assert read(text, rules=RULES.changed(False)) == text


@pytest.mark.parametrize("unit", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("size", [1, 10_000])
def test_the_time_grows_no_faster_than_the_text(unit: str, size: int) -> None:
    check_growth(lambda n: partial(read, unit * (n // len(unit)), size), 2_000)
