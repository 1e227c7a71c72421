from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from deployments.settings import PieceSettings
from deployments.text import segmentation
from deployments.text.segmentation import Cutter, cut_into_pieces
from deployments.text.sentences import sentences

SETTINGS = PieceSettings(first_piece_characters=60, piece_characters=240)

WHOLE = {
    "decimal": "The value of pi is about 3.14 in most books.",
    "thousands": "They sold 1,250 tickets on the first day.",
    "time": "The train leaves at 7:30 a.m. on Monday.",
    "money": "A ticket costs $9.99 at the door.",
    "percent": "It rose by 12.5 % in one year.",
    "version": "Please install version 2.60.0 of the program.",
    "date": "She was born on March 4, 2024 in Paris.",
    "short month": "He came back on Jan. 5 with a cold.",
    "url": "Look at https://example.com/a.b?c=d!e for more.",
    "host in capitals": "Go to www.Example.Com now.",
    "e-mail": "Write to bob.jones@example.co.uk about it.",
    "doctor": "Dr. Smith and Mr. Jones met Prof. Green.",
    "latin": "Bring fruit, e.g. apples, i.e. something sweet.",
    "country": "The U.S. economy grew again.",
    "afternoon": "The shop in the U.K. closes at 5 p.m. on Sundays.",
    "number word": "Look at No. 5 on the list.",
    "volume": "It is in Vol. 2 of the series.",
    "place": "He drove to Ft. Worth in a day.",
    "initials": "J. K. Rowling wrote it.",
    "et cetera": "It was wood, stone, etc. and more.",
    "quoted sentences": 'She said, "I am here. You are too."',
    "brackets": "He asked (very politely!) for more.",
    "attribution": '"Stop right there!" he cried.',
    "code at the start": "`docs/structures.md` explains it.",
    "several marks": "You did what to the car?!",
}


@pytest.mark.parametrize("text", WHOLE.values(), ids=WHOLE.keys())
def test_keeps_a_sentence_whole_between_neighbours(text: str) -> None:
    before, after = "We begin with this one.", "That was all we had."
    assert cut_into_pieces(f"{before} {text} {after}", SETTINGS) == (before, text, after)


CUT = {
    "two sentences": ("It rained all day. We stayed inside.", ["It rained all day.", "We stayed inside."]),
    "question": ("Where is everybody? I see nobody!", ["Where is everybody?", "I see nobody!"]),
    "quote after the stop": ("“I am going home.” The door closed.", ["“I am going home.”", "The door closed."]),
    "ellipsis": ("She waited for him... Nobody came at all.", ["She waited for him...", "Nobody came at all."]),
    "sentence starts with a number": ("The total is now 5. 6 people came.", ["The total is now 5.", "6 people came."]),
    "chinese": ("今天的天气真的非常非常好。我们一起去公园里散步吧！", ["今天的天气真的非常非常好。", "我们一起去公园里散步吧！"]),
    "hindi": ("नमस्ते मेरे दोस्त। आप कैसे हैं आज?", ["नमस्ते मेरे दोस्त।", "आप कैसे हैं आज?"]),
    "arabic": ("مرحبا يا صديقي. كيف حالك اليوم؟", ["مرحبا يا صديقي.", "كيف حالك اليوم؟"]),
    "spanish": ("¿Cómo estás, amigo? ¡Estoy muy bien!", ["¿Cómo estás, amigo?", "¡Estoy muy bien!"]),
    "blank line without a stop": ("The First Chapter\n \nIt was a dark night.", ["The First Chapter", "It was a dark night."]),
    "line breaks": ("It rained\nall day.\r\nWe stayed inside.", ["It rained all day.", "We stayed inside."]),
    "spaces": ("\tIt\u00a0rained   all\u3000day. ", ["It rained all day."]),
    "control characters": ("It rai\x00ned\x07 all\ufeff d\u00aday.\ud800", ["It rained all day."]),
    "tiny ones join the next": ("Yes. I will come with you. No.", ["Yes. I will come with you. No."]),
    "tiny ones do not cross a blank line": ("Yes.\n\nI will come.", ["Yes.", "I will come."]),
    "list numbers": ("1. Open the door. 2. Close the door.", ["1. Open the door.", "2. Close the door."]),
    "chinese tiny": ("谢谢。你好。", ["谢谢。你好。"]),
    "nothing to speak": ("... --- 😀 !!!", []),
    "empty": ("", []),
    "only spaces": (" \n\n\t ", []),
    "ornament between paragraphs": ("It was a dark night.\n\n* * *\n\nThe sun rose.", ["It was a dark night.", "The sun rose."]),
    "no stop at all": ("so we went home and slept", ["so we went home and slept"]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "pieces"), CUT.values(), ids=CUT.keys())
def test_cuts_text(text: str, pieces: list[str]) -> None:
    assert list(cut_into_pieces(text, SETTINGS)) == pieces


LONG = {
    "semicolon before comma": (
        60,
        "He packed a bag, a coat and a hat; then he went down to the old harbor.",
        ["He packed a bag, a coat and a hat;", "then he went down to the old harbor."],
    ),
    "dash": (
        50,
        "The boat was very late — nobody in the town knew the reason.",
        ["The boat was very late —", "nobody in the town knew the reason."],
    ),
    "comma": (
        50,
        "When the boat came in at last, all the people were asleep.",
        ["When the boat came in at last,", "all the people were asleep."],
    ),
    "conjunction": (
        50,
        "The boat came in at midnight because the wind was strong.",
        ["The boat came in at midnight", "because the wind was strong."],
    ),
    "not at a comma near the start": (
        60,
        "All the same, the boat came in at midnight because the wind was strong.",
        ["All the same, the boat came in at midnight", "because the wind was strong."],
    ),
    "space, in equal parts": (
        30,
        "Seven large yellow boats sailed very slowly north.",
        ["Seven large yellow boats", "sailed very slowly north."],
    ),
    "sentences inside a quote": (
        50,
        '"The boat is late. We have to wait here. It is cold," she said.',
        ['"The boat is late. We have to wait here.', 'It is cold," she said.'],
    ),
    "not in a date": (
        40,
        "The meeting is now on March 14, 2024 at the very old town hall.",
        ["The meeting is now on March 14, 2024", "at the very old town hall."],
    ),
    "not after a title": (
        30,
        "Somebody has to tell Dr. Smith about this.",
        ["Somebody has to tell", "Dr. Smith about this."],
    ),
    "not inside a number": (
        25,
        "It costs about 1 250 000 euros today.",
        ["It costs about", "1 250 000 euros today."],
    ),
    "full-width comma": (
        20,
        "今天的天气真的非常非常好，我们一起去公园里散步吧！",
        ["今天的天气真的非常非常好，", "我们一起去公园里散步吧！"],
    ),
    "run without a space": (10, "x" * 25, ["x" * 10, "x" * 10, "x" * 5]),
    "combining mark": (10, "e\u0301" * 12, ["e\u0301" * 5, "e\u0301" * 5, "e\u0301" * 2]),
    "emoji family": (10, "abcdefgh👨\u200d👩\u200d👧xyz", ["abcdefgh", "👨\u200d👩\u200d👧xyz"]),
    "flag": (10, "abcdefghi🇬🇧jklmnop", ["abcdefghi", "🇬🇧jklmnop"]),
}


@pytest.mark.parametrize(("limit", "text", "pieces"), LONG.values(), ids=LONG.keys())
def test_cuts_a_long_sentence(limit: int, text: str, pieces: list[str]) -> None:
    settings = PieceSettings(first_piece_characters=limit, piece_characters=limit)
    assert list(cut_into_pieces(text, settings)) == pieces


FIRST = {
    "last comma before the limit": (
        "After the war, in a small town, people began to build again.",
        ["After the war, in a small town,", "people began to build again."],
    ),
    "fits as it is": ("People began, slowly, to build.", ["People began, slowly, to build."]),
    "no clause mark": (
        "People in the small town began to build their houses again.",
        ["People in the small town began to build their houses again."],
    ),
    "too small a start": (
        "Well, people in the small town began to build houses again.",
        ["Well, people in the small town began to build houses again."],
    ),
    "too small a rest": ("People in the small town began again, oh yes.", ["People in the small town began again, oh yes."]),
    "not in a date": (
        "It was on March 4, 2024 that people began to build again.",
        ["It was on March 4, 2024 that people began to build again."],
    ),
    "not in a number": ("He had sold 1,250 houses to people in the small town.",
                        ["He had sold 1,250 houses to people in the small town."]),
    "only the first": (
        "It was cold. After the war, in a small town, people began to build again.",
        ["It was cold.", "After the war, in a small town, people began to build again."],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "pieces"), FIRST.values(), ids=FIRST.keys())
def test_first_piece_is_short(text: str, pieces: list[str]) -> None:
    settings = PieceSettings(first_piece_characters=40, piece_characters=240)
    assert list(cut_into_pieces(text, settings)) == pieces


def _letters(text: str) -> list[str]:
    return re.findall(r"[^\W_]", text)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text)


def _unbroken(piece: str) -> bool:
    return "\n" not in piece and piece == piece.strip() and len(_letters(piece)) > 0


settings_drawn = st.builds(
    PieceSettings, first_piece_characters=st.integers(1, 80), piece_characters=st.integers(1, 120)
)
MARKS = list(" .,;:!?…—–\"'“”()[]。！？，\n\t\u00a0\u2028\u200d\u0301😀") + [
    "\n\n",
    "Dr. ",
    "No. ",
    "e.g. ",
    "1,250",
    "3.14",
]
rough = st.lists(st.one_of(st.sampled_from(MARKS), st.text(max_size=6)), max_size=60).map("".join)


@given(rough, settings_drawn)
@example("A\u00a0.\u00a0.B. ", SETTINGS)  # panics in sentencex 1.0.32 if it is passed on as it stands
def test_loses_and_repeats_no_letter(text: str, settings: PieceSettings) -> None:
    pieces = cut_into_pieces(text, settings)
    assert _letters("".join(pieces)) == _letters(text)
    assert all(_unbroken(piece) and len(piece) <= settings.piece_characters for piece in pieces)
    assert cut_into_pieces(text, settings) == pieces


WORD = st.from_regex(r"[a-zA-Z]{1,12}", fullmatch=True)
NUMBER = st.sampled_from(
    ["3.14", "1,250", "7:30", "$9.99", "12.5%", "2.60.0", "05/06/2024", "bob@x.org", "http://a.b/c?d"]
)
SEPARATOR = st.sampled_from([" ", " ", ", ", ". ", "! ", "; ", " — ", "\n", "\n\n", '." ', ".) ", "... "])


@given(st.lists(st.tuples(st.one_of(WORD, NUMBER), SEPARATOR), max_size=80), st.integers(16, 100))
def test_never_cuts_a_word_or_a_number(parts: list[tuple[str, str]], limit: int) -> None:
    pieces = cut_into_pieces(
        "".join(word + separator for word, separator in parts),
        PieceSettings(first_piece_characters=limit // 2, piece_characters=limit),
    )
    spoken = [token for piece in pieces for token in piece.split() if _words(token)]
    assert [token.strip("\"'.,;!)") for token in spoken] == [word for word, _ in parts]


HUGE = {
    "prose": "Dr. Smith paid $9.99 for it. Then, at 7:30 p.m., he left. ",
    "one long sentence": "and so it went on and on, ",
    "dots": ".",
    "one word": "a",
    "dots and spaces": ". . . ",
    "open brackets": "(",
    "open quotes": "“a. ",
    "combining marks": "\u0301",
    "chinese without stops": "你好",
    "blank lines": "a\n\n",
}


@pytest.mark.parametrize("unit", HUGE.values(), ids=HUGE.keys())
def test_work_grows_linearly(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 0

    def counted(block: str) -> list[str]:
        nonlocal seen
        assert len(block) <= 4096
        seen += len(block)
        return sentences(block)

    def work(characters: int) -> int:
        nonlocal seen
        seen = 0
        text = unit * (characters // len(unit))
        assert _letters("".join(cut_into_pieces(text, SETTINGS))) == _letters(text)
        return seen

    monkeypatch.setattr(segmentation, "sentences", counted)
    assert work(100_000) <= 2.2 * work(50_000)


def test_two_megabytes_of_prose() -> None:
    sentence = "Dr. Smith paid $9.99 for it at 7:30 p.m. yesterday."
    assert cut_into_pieces(f"{sentence} " * 40_000, SETTINGS) == (sentence,) * 40_000


def test_a_panic_in_the_library_leaves_the_text_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    def panic(language: str, text: str) -> list[str]:
        raise PanicException

    monkeypatch.setattr("sentencex.segment", panic)
    text = "The first one is here. The second one is there."
    assert cut_into_pieces(text, SETTINGS) == (text,)


def as_it_arrives(messages: list[str], settings: PieceSettings) -> list[str]:
    """The pieces of a text that comes in messages, each taken as soon as it is settled."""
    cutter = Cutter(settings)
    pieces: list[str] = []
    for message in messages:
        cutter.write(message)
        pieces += cutter.settled()
    cutter.flush()
    return pieces + list(cutter.settled())


def split(text: str, places: list[int]) -> list[str]:
    borders = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    return [text[a:b] for a, b in pairwise(borders)]


PHRASES = st.sampled_from(
    [*WHOLE.values(), *(text for text, _ in CUT.values()), *(text for _, text, _ in LONG.values())]
)
prose = st.lists(st.tuples(PHRASES, st.sampled_from([" ", "\n", "\r\n", "\n\n", "\r\n\r\n", ", ", ""])), max_size=12)
prose_text = prose.map(lambda parts: "".join(phrase + separator for phrase, separator in parts))


@hypothesis_settings(max_examples=300)
@given(st.one_of(rough, prose_text), st.lists(st.integers(0, 600), max_size=12), settings_drawn)
@example("a.\r\n b.\r\n", [3, 8], SETTINGS)
@example('We begin with this one. "Stop right there!" he cried. That was all.', [25, 33, 44], SETTINGS)
def test_the_pieces_are_the_same_however_the_text_arrives(
    text: str, places: list[int], settings: PieceSettings
) -> None:
    whole = list(cut_into_pieces(text, settings))
    assert as_it_arrives(split(text, places), settings) == whole
    assert as_it_arrives(list(text), settings) == whole


def test_a_sentence_leaves_when_the_next_has_begun() -> None:
    cutter = Cutter(SETTINGS)
    cutter.write("It rained all day. We stayed ins")
    assert list(cutter.settled()) == []
    cutter.write("ide.")
    assert list(cutter.settled()) == ["It rained all day."]


def test_a_long_first_sentence_begins_before_its_end() -> None:
    cutter = Cutter(PieceSettings(first_piece_characters=40, piece_characters=240))
    cutter.write("After the war, in a small town, people began to build again")
    assert list(cutter.settled()) == ["After the war, in a small town,"]


def test_a_sentence_without_an_end_leaves_in_parts() -> None:
    cutter = Cutter(PieceSettings(first_piece_characters=40, piece_characters=40))
    cutter.write("and so it went on and on and on " * 4)
    assert len(list(cutter.settled())) == 1


HELD = {
    "word": ("He went to the har", "He went to the", "bor."),
    "number": ("It costs 3.", "It costs", "50 now."),
    "spaced number": ("It costs 1 ", "It costs", "250 euros."),
    "title": ("He asked Dr. ", "He asked", "Smith."),
    "date": ("She came on March ", "She came on", "4, 2024."),
    "nothing but a word": ("Incompre", None, "hensible."),
    "whole words": ("He went to the ", "He went to the", "harbor."),
    "chinese": ("今天天气好，我", "今天天气好，", "们走。"),
}


@pytest.mark.parametrize(("begin", "left", "rest"), HELD.values(), ids=HELD.keys())
def test_what_leaves_when_no_text_comes_ends_with_a_whole_word(begin: str, left: str | None, rest: str) -> None:
    cutter = Cutter(SETTINGS)
    cutter.write(begin)
    cutter.flush_words()
    assert list(cutter.settled()) == ([] if left is None else [left])
    cutter.write(rest)
    cutter.flush()
    ((last),) = cutter.settled()
    assert f"{left or ''} {last}".split() == (begin + rest).split() or left == "今天天气好，"


@given(st.one_of(rough, prose_text), st.lists(st.integers(0, 400), max_size=8))
def test_flushes_lose_and_repeat_no_letter(text: str, places: list[int]) -> None:
    cutter = Cutter(SETTINGS)
    pieces: list[str] = []
    for message in split(text, places):
        cutter.write(message)
        cutter.flush_words()
        pieces += cutter.settled()
    cutter.flush()
    pieces += cutter.settled()
    assert _letters("".join(pieces)) == _letters(text)
