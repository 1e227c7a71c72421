"""Written texts are read as a person reads them, in time that grows no faster than the text, and without harm."""

from __future__ import annotations

import re
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from deployments.errors import MotetError
from deployments.settings import PieceSettings
from deployments.text.normalization.markdown import MarkdownReader
from deployments.text.normalization.normalizer import normalized
from deployments.text.normalization.rules import AS_WRITTEN, ReadingRules, RuleChanges, parsed_changes
from deployments.text.segmentation import cut_into_pieces
from serve_app.bench.written_sentences import WrittenSentence, written_sentences
from tests.unit.growth import check_growth
from tests.unit.odd_inputs import ODD

RULES = ReadingRules()
SENTENCES = written_sentences("own")
odd = pytest.mark.parametrize("unit", ODD.values(), ids=ODD.keys())


def spoken(text: str, language: str = "en-US", rules: ReadingRules = RULES) -> str:
    reader = MarkdownReader(rules)
    plain = reader.write(text) + reader.finish()
    return " ".join(normalized(piece, language, rules) for piece in cut_into_pieces(plain, PieceSettings()))


def words_of(text: str) -> str:
    """Without marks, and with the letters of an abbreviation as one word."""
    words = " ".join(re.findall(r"[a-z']+", text.lower().replace("-", " ")))
    return re.sub(r"(?<=\b[a-z]) (?=[a-z]\b)", "", words)


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda sentence: f"{sentence.kind}: {sentence.written[:40]!r}")
def test_each_written_sentence_is_read_as_intended(sentence: WrittenSentence) -> None:
    assert words_of(spoken(sentence.written)) == words_of(sentence.intended)


def test_there_are_200_own_sentences_and_no_sentence_twice() -> None:
    assert len(SENTENCES) == 200
    everything = written_sentences()
    assert len({sentence.written for sentence in everything}) == len(everything)


OTHERS = {
    "I came, I saw, I conquered.": "I came, I saw, I conquered.",
    "Charles I know well; Charles II I do not.": "Charles I know well; Charles the second I do not.",
    "He said no.": "He said no.",
    "Is that a no. 5?": "Is that a number five?",
    "A well-known, twenty-one-year-old man.": "A well-known, twenty-one-year-old man.",
    "$5": "five dollars",
    "$1": "one dollar",
    "€1.01": "one euro and one cent",
    "US$3 million": "three million US dollars",
    "1 kg": "one kilogram",
    "a 5-mile walk": "a five mile walk",
    "12345678901234567890": "one two three four five six seven eight nine zero one two three four five six seven eight nine zero",
    "GPT-4 and MP3": "GPT four and MP three",
    "in the year 2000": "in the year two thousand",
    "1,000,000": "one million",
    ".5": "point five",
    "C++ and C#": "C plus plus and C sharp",
    "R&D": "R and D",
    "he/she": "he or she",
    "2*3*4 = 24": "two times three times four equals twenty-four",
    "the 1800s": "the eighteen hundreds",
    "31/12/1999": "December thirty-first, nineteen ninety-nine",
    "10-Jul-2020": "July tenth, twenty twenty",
    "Due on 9/15 and 10/2.": "Due on September fifteenth and ten halves.",
    "on 1/2 acre": "on one half acre",
    "on 3/4 of it": "on three quarters of it",
    "Fri Apr 11: we left": "Friday April eleventh: we left",
    "Apr 11:30": "Apr eleven thirty",
    "1½-3 months": "one and a half to three months",
    "1-1½ cups": "one to one and a half cups",
    "10º F and -12 ° C": "ten degrees Fahrenheit and minus twelve degrees Celsius",
    "50k miles": "fifty thousand miles",
    "v2+ or v2.1": "version two plus or version two point one",
    "names A-M": "names A to M",
    "plan A-B": "plan A-B",
    "A-Z": "A to Z",
    "9:20/mile": "nine twenty per mile",
    "2019-20": "twenty nineteen to twenty",
    "Ω is a letter": "Ω is a letter",
    "No. I disagree.": "No. I disagree.",
    "ISBN 978-3-16-148410-0": "ISBN nine seven eight, three, one six, one four eight four one zero, zero",
    "7/10": "seven out of ten",
    "f(x) = 3x^2 - 1": "f of x equals three x squared minus one",
    "WWII and WW2": "World War two and WW two",
    "Malcolm X": "Malcolm X",
    "1 000 000 people": "one million people",
    "St. Louis, MO 63101": "Saint Louis, MO six three one zero one",
    "123 Main St. Apt. 4B": "one hundred twenty-three Main Street Apartment four B",
    "a 5-km walk": "a five kilometer walk",
    "$5/kg": "five dollars per kilogram",
    "$.50": "fifty cents",
    "class of '99": "class of ninety-nine",
    "2024-11-28T23:04:22Z": "November twenty-eighth, twenty twenty-four at twenty-three oh four",
    "c. 1850": "circa eighteen fifty",
    "five dollars <3": "five dollars",
    "call 415.555.0132": "call four one five, five five five, zero one three two",
    "805/555-2787": "eight zero five, five five five, two seven eight seven",
    "1.234.567": "one point two hundred thirty-four point five hundred sixty-seven",
    "over 2.5m more users": "over two point five million more users",
    "10k followers, a 10k race": "ten thousand followers, a ten k race",
    "a 5m cable": "a five meter cable",
    "a population of 1.4bn": "a population of one point four billion",
    "$700m-$800m": "seven hundred to eight hundred million dollars",
    "$700m-$1bn": "seven hundred million dollars to one billion dollars",
    "$1.00-$1.20": "one dollar to one dollar and twenty cents",
    "$5-$10": "five to ten dollars",
    "€4,50 or 4,50 €": "four euros and fifty cents or four euros and fifty cents",
    "€4,500": "four thousand five hundred euros",
    "2-3x faster": "two to three times faster",
    "120 x 80 cm": "one hundred twenty by eighty centimeters",
    "5 x 3": "five by three",
    "9/10 of them": "nine tenths of them",
    "5/5 stars": "five out of five stars",
    "20/20 vision": "twenty twenty vision",
    "3-1/2 cups": "three and a half cups",
    "½ tsp salt": "one half teaspoon salt",
    "1½ lb beef": "one and a half pounds beef",
    "a 60 W lamp": "a sixty watt lamp",
    "It needs 60 W.": "It needs sixty watts.",
    "220 W. 14th Street": "two hundred twenty West fourteenth Street",
    'a 27" screen': "a twenty-seven inch screen",
    'It is 27" wide.': "It is twenty-seven inches wide.",
    'the "top 15" list': 'the "top fifteen" list',
    "Bake at 220C.": "Bake at two hundred twenty degrees Celsius.",
    "Section 220 C": "Section two hundred twenty C",
    "in 41:07": "in forty-one oh seven",
    "odds of 1:4": "odds of one to four",
    "14:30h": "fourteen thirty",
    "11.30 pm": "eleven thirty PM",
    "Tue, 7/4": "Tuesday, July fourth",
    "On Friday, 3/4 of us left.": "On Friday, three quarters of us left.",
    "The 5th Nov. was cold.": "The fifth of November was cold.",
    "September 15 - October 15": "September fifteenth to October fifteenth",
    "12 May - 3 June": "the twelfth of May to the third of June",
    "in Jan. and Feb.": "in January and February.",
    "I met Jan. She left.": "I met Jan. She left.",
    "Boston, Mass.": "Boston, Massachusetts.",
    "4.x": "four point x",
    "(a - b) / b": "(a minus b) divided by b",
    "git branch -v": "git branch dash v",
    "He left -I think- early.": "He left -I think- early.",
    "1.Warm the pan.": "one, Warm the pan.",
    "Min. stay": "Minimum stay",
}


@pytest.mark.parametrize(("written", "said"), OTHERS.items())
def test_readings(written: str, said: str) -> None:
    assert normalized(written, "en-US", RULES) == said


def test_a_date_is_read_as_in_the_country_of_the_voice() -> None:
    assert normalized("5/6/2024", "en-US", RULES).startswith("May sixth")
    assert normalized("5/6/2024", "en-GB", RULES).startswith("June fifth")


@pytest.mark.parametrize("rule", [name for name in ReadingRules.model_fields if name not in ("markdown", "lines")])
def test_a_rule_that_is_off_reads_nothing(rule: str) -> None:
    written = {
        "emoji": "Good 👍",
        "addresses": "a@example.com",
        "phones": "555-123-4567",
        "dates": "7:30 pm",
        "money": "$5",
        "units": "5 km",
        "roman": "Chapter IV",
        "numbers": "21st",
        "signs": "salt & pepper",
        "abbreviations": "Dr. Smith",
        "capitals": "STOP it",
    }[rule]
    only = AS_WRITTEN.changed({rule: True})
    assert normalized(written, "en-US", only) != written
    assert normalized(written, "en-US", RULES.changed(False)) == written


def test_a_request_changes_rules() -> None:
    assert RULES.changed(None) is RULES
    assert RULES.changed(False) == AS_WRITTEN
    assert RULES.changed({"emoji": False}) == ReadingRules(emoji=False)
    assert AS_WRITTEN.changed(True) == RULES
    wanted = TypeAdapter(RuleChanges)
    assert wanted.validate_python({"emoji": False}) == {"emoji": False}
    for wrong in ({"emojis": False}, {"emoji": "no"}, "no", 1):
        with pytest.raises(ValidationError):
            wanted.validate_python(wrong)


def test_a_command_changes_rules() -> None:
    assert parsed_changes("on") is True
    assert parsed_changes("off") is False
    assert parsed_changes("emoji=off, money=on") == {"emoji": False, "money": True}
    for wrong in ("", "emoji", "emoji=maybe", "emojis=off"):
        with pytest.raises(MotetError):
            parsed_changes(wrong)


FOREIGN = {
    ("Le 5 mai 1984, il a payé 20 €.", "fr-FR"): "Le 5 mai 1984, il a payé 20 €.",
    ("Écrivez à sales@example.com !", "fr"): "Écrivez à sales arobase example point com !",
    ("Vea https://www.example.com/a?b=1.", "es"): "Vea example punto com barra a.",
    ("Bravo 👏 !", "fr-FR"): "Bravo, applaudissements !",
    ("Hola, Dr. Pérez: 3 kg.", "es"): "Hola, Dr. Pérez: 3 kg.",
    ("これは https://www.example.com です。", "ja"): "これは example.com です。",
    ("你好 2024。", "zh-CN"): "你好 2024。",
    ("Anything goes: 5 km, $5.", "und"): "Anything goes: 5 km, $5.",
    ("You will find the 5 books and $5 there.", "und"): "You will find the five books and five dollars there.",
    ("Il y a 5 min, The Wall.", "und"): "Il y a 5 min, The Wall.",
    ("It costs $5.", "ja"): "It costs five dollars.",
}


@pytest.mark.parametrize(("text", "said"), FOREIGN.items(), ids=lambda value: str(value)[:30])
def test_no_text_gets_words_of_another_language(text: tuple[str, str], said: str) -> None:
    assert normalized(*text, RULES) == said


@pytest.mark.parametrize(
    "sentence", written_sentences(), ids=lambda sentence: f"{sentence.kind}: {sentence.written[:40]!r}"
)
def test_what_was_read_stays_as_it_is(sentence: WrittenSentence) -> None:
    once = spoken(sentence.written)
    assert spoken(once) == once


@given(st.text(max_size=200), st.sampled_from(["en-US", "en-GB", "fr-FR", "ja", "und", ""]))
def test_any_text_is_read(text: str, language: str) -> None:
    normalized(text, language, RULES)


@given(st.text(alphabet="a1 .,$%/:-–@#&*_IVX'\"()kmsthpAM€½+=<>~", max_size=60))
def test_any_mixture_of_signs_is_read(text: str) -> None:
    said = normalized(text, "en-US", RULES)
    assert not re.search(r"[*_~^`|\\$€½]", said) or "$" in text or "€" in text


@odd
def test_the_time_grows_no_faster_than_the_text(unit: str) -> None:
    check_growth(lambda n: partial(normalized, unit * (n // len(unit)), "en-US", RULES), 2_000)
