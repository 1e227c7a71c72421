"""SSML: what its elements do, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.engines.protocols import Voice
from deployments.errors import MotetError
from deployments.settings import PieceSettings
from deployments.tasks.piece_preparation import PieceMaker, language_of
from deployments.text.lexicon import Lexicon
from deployments.text.normalization.rules import AS_WRITTEN, ReadingRules
from deployments.text.piece import Piece
from deployments.text.ssml.parser import MAX_DEPTH, MAX_PAUSES_S, read_ssml
from tests.unit.fakes import TRAITS

PIECES = PieceSettings()
READS_IPA = replace(TRAITS, phonemes=True)


def pieces_of(body: str, traits: object = READS_IPA, **lexicon: str) -> list[Piece]:
    maker = PieceMaker(traits, "ada", [Lexicon(lexicon)], AS_WRITTEN)  # type: ignore[arg-type]
    return list(maker.of_ssml(f"<speak>{body}</speak>", PIECES, {"alloy": "bo"}).pieces)


def said(body: str) -> list[tuple[str, str]]:
    return [(piece.text, piece.spoken) for piece in pieces_of(body)]


@pytest.mark.parametrize(
    ("body", "text", "spoken"),
    [
        (
            "The <sub alias='World Wide Web Consortium'>W3C</sub> met.",
            "The W3C met.",
            "The World Wide Web Consortium met.",
        ),
        ("Say <phoneme ph='təˈmeɪtoʊ'>tomato</phoneme>.", "Say tomato.", "Say [tomato](/təˈmeɪtoʊ/)."),
        ("Spell <say-as interpret-as='characters'>ABC</say-as> now.", "Spell ABC now.", "Spell A, B, C now."),
        ("One &amp; two\n   three.<!-- four -->", "One & two three.", "One & two three."),
        ("I<sub alias=' saw '> see </sub>you all here.", "I see you all here.", "I saw you all here."),
        ("<sub alias='hearts'>♥</sub>", "♥", "hearts"),
        ("Love you. <sub alias='hearts'>♥</sub>", "Love you. ♥", "Love you. hearts"),
    ],
)
def test_words_and_their_readings(body: str, text: str, spoken: str) -> None:
    assert said(body) == [(text, spoken)]


def test_a_model_without_phonemes_gets_the_word() -> None:
    (piece,) = pieces_of("Say <phoneme ph='təˈmeɪtoʊ'>tomato</phoneme> now.", TRAITS)
    assert piece.spoken == "Say tomato now."


def test_a_lexicon_reads_what_the_document_leaves_open() -> None:
    (piece,) = pieces_of("My SQL and <sub alias='your sequel'>SQL</sub> are here.", SQL="sequel")
    assert (piece.text, piece.spoken) == ("My SQL and SQL are here.", "My sequel and your sequel are here.")


def test_a_reading_that_is_cut_in_two_is_spoken_once() -> None:
    words = "This is one long sentence, and it goes on. " * 12
    found = pieces_of(f"<sub alias='Short words.'>{words}</sub> And then it ends here.")
    assert len(found) > 2
    assert " ".join(piece.text for piece in found) == " ".join(f"{words}And then it ends here.".split())
    assert " ".join(" ".join(piece.spoken for piece in found).split()) == "Short words. And then it ends here."


@pytest.mark.parametrize(
    ("element", "pause_s"),
    [
        ("<break/>", 0.4),
        ("<break time='250ms'/>", 0.25),
        ("<break time='1.5s' strength='weak'/>", 1.5),
        ("<break strength='x-strong'></break>", 1.2),
        ("<break time='1s'/> <break time='1s'/>", 2.0),
    ],
)
def test_breaks(element: str, pause_s: float) -> None:
    first, second = pieces_of(f"One{element}two.")
    assert (first.text, first.pause_s, second.text, second.pause_s) == ("One", pause_s, "two.", 0.0)


def test_a_break_without_a_length_divides_nothing() -> None:
    assert said("One <break strength='none'/>two.") == [("One two.", "One two.")]


def test_a_break_may_come_first_or_last() -> None:
    found = pieces_of("<break time='1s'/>One.<break time='2s'/>")
    assert [(piece.text, piece.pause_s) for piece in found] == [("", 1.0), ("One.", 2.0)]


def test_paragraphs_have_a_pause_between_them_and_sentences_none() -> None:
    found = pieces_of("<p><s>One apple</s><s>Two pears</s></p><p>Three plums</p>")
    assert [(p.text, p.pause_s) for p in found] == [("One apple", 0.0), ("Two pears", 0.4), ("Three plums", 0.0)]


@pytest.mark.parametrize(
    ("rate", "speed"), [("slow", 0.75), ("x-fast", 1.6), ("80%", 0.8), ("+20%", 1.2), ("-20%", 0.8), ("1.5", 1.5)]
)
def test_rates(rate: str, speed: float) -> None:
    found = pieces_of(f"One. <prosody rate='{rate}'>Two.</prosody> Three.")
    assert [piece.text for piece in found] == ["One.", "Two.", "Three."]
    assert [piece.speed for piece in found] == pytest.approx([1.0, speed, 1.0])


def test_rates_and_emphasis_multiply_and_voices_nest() -> None:
    found = pieces_of(
        "<prosody rate='50%'>One <emphasis level='strong'>two</emphasis></prosody>"
        "<voice name='alloy'>Three <voice name='ada'>four</voice></voice>"
    )
    assert [(piece.text, piece.speed, piece.voice) for piece in found] == [
        ("One", 0.5, None), ("two", 0.4, None), ("Three", 1.0, "bo"), ("four", 1.0, "ada"),
    ]  # fmt: skip


def test_attributes_that_are_not_read_are_named() -> None:
    found = read_ssml(
        "<speak xml:lang='en'><prosody pitch='high' rate='slow'>A</prosody></speak>", lambda _: "en", phonemes=False
    )
    assert found.ignored == ("prosody.pitch",)


BOMB = "<!DOCTYPE lolz [<!ENTITY a 'ha'><!ENTITY b '&a;&a;'>]>"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (f"{BOMB}<speak>&b;</speak>", "document type"),
        ('<!DOCTYPE speak SYSTEM "file:///etc/passwd"><speak>A</speak>', "document type"),
        ("<speak>A&nbsp;B</speak>", "undefined entity, in line 1"),
        ("<speak>A\n<audio src='x'/></speak>", "<audio> in line 2"),
        ("<speak>A<p>B</speak>", "mismatched tag"),
        ("just words", "not well-formed"),
        ("", "not well-formed"),
        ("<p>A</p>", "wrong place"),
        ("<speak><speak>A</speak></speak>", "wrong place"),
        ("<speak><sub alias='x'>A<break/></sub></speak>", "<break> inside <sub>"),
        ("<speak><sub>A</sub></speak>", "<sub> without alias"),
        ("<speak><phoneme alphabet='x-sampa' ph='t@'>A</phoneme></speak>", "x-sampa"),
        ("<speak><phoneme ph='a'/></speak>", "without a word"),
        ("<speak><say-as interpret-as='song'>A</say-as></speak>", "'song'"),
        ("<speak>A<break time='99s'/></speak>", "it may have 10"),
        ("<speak>A<break time='s'/></speak>", "time of <break>"),
        ("<speak>A<break strength='huge'/></speak>", "'huge'"),
        ("<speak><prosody rate='9000%'>A</prosody></speak>", "20% to 500%"),
        ("<speak><prosody rate='quick'>A</prosody></speak>", "'quick'"),
        ("<speak><emphasis level='loud'>A</emphasis></speak>", "'loud'"),
        ("<speak><break/>...</speak>", "no words"),
        ("<speak><voice name='nobody'>A</voice></speak>", "no voice 'nobody'"),
        (f"<speak>{'<p>' * MAX_DEPTH}A", f"more than {MAX_DEPTH} elements deep"),
        ("<speak>A" + '<break time="10s"/>' * 70, f"more than {MAX_PAUSES_S:g} s"),
    ],
)
def test_what_is_refused_is_named(document: str, message: str) -> None:
    with pytest.raises(MotetError, match=message) as caught:
        PieceMaker(TRAITS, "ada", (), AS_WRITTEN).of_ssml(document, PIECES, {})
    assert caught.value.failure.kind in ("invalid", "not_found")


TAGS = st.sampled_from(["p", "s", "emphasis", "prosody"])
WORDS = st.text(st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="<&"), max_size=60)
TREES = st.recursive(WORDS, lambda inner: st.tuples(TAGS, st.lists(inner, max_size=4)), max_leaves=12)


def written(tree: Any) -> tuple[str, str]:
    """A tree as SSML, and its words."""
    if isinstance(tree, str):
        return tree, tree
    tag, inner = tree
    parts = [written(part) for part in inner]
    return f"<{tag}>{''.join(p[0] for p in parts)}</{tag}>", " ".join(p[1] for p in parts)


@given(TREES)
@settings(max_examples=100, deadline=None)
def test_no_word_of_a_document_is_lost(tree: object) -> None:
    document, words = written(tree)
    letters = [c for c in words if c.isalnum()]
    try:
        found = pieces_of(document)
    except MotetError as error:
        assert error.failure.code == ("script_not_supported" if letters else "empty_input")
        return
    assert [c for piece in found for c in piece.text if c.isalnum()] == letters
    assert [piece.text for piece in found] == [piece.spoken for piece in found]


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    for document in (text, f"<speak>{text}</speak>"):
        try:
            read_ssml(document, lambda _: "en", phonemes=True)
        except MotetError as error:
            assert error.failure.kind == "invalid"


def test_the_language_is_that_of_the_first_voice() -> None:
    assert [language_of(TRAITS, voice) for voice in ("ada", "ada(0.5)+bo(0.5)", "ada,bo", "voice_1")] == [
        *[TRAITS.voices[0].language] * 3, "und",
    ]  # fmt: skip


def test_another_voice_reads_in_its_own_language() -> None:
    voices = (Voice("ada", "en-US"), Voice("jo", "de-DE"))
    body = "<say-as interpret-as='ordinal'>21</say-as> 5 km <voice name='j'><say-as interpret-as='ordinal'>21</say-as> 5 km</voice>"
    maker = PieceMaker(replace(TRAITS, voices=voices), "ada", (), ReadingRules())
    found = maker.of_ssml(f"<speak>{body}</speak>", PIECES, {"j": "jo"}).pieces
    assert [piece.spoken for piece in found] == ["twenty-first five kilometers", "21 5 km"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("This is <emphasis>very</emphasis>, very good.", [("This is", True), ("very,", False), ("very good.", False)]),
        ("One. <prosody rate='slow'>Two.</prosody> Three.", [("One.", False), ("Two.", False), ("Three.", False)]),
        ("<s>One</s><prosody rate='slow'>two</prosody> three", [("One", False), ("two", True), ("three", False)]),
        ("One<break/><emphasis>two</emphasis>!", [("One", False), ("two!", False)]),
        ("<voice name='bo'>One</voice> two", [("One", True), ("two", False)]),
    ],
)
def test_a_sentence_goes_on_where_only_speed_or_voice_change(body: str, expected: list[tuple[str, bool]]) -> None:
    assert [(piece.text, piece.goes_on) for piece in pieces_of(body)] == expected
