"""Roman numerals after words that are counted and after the names of rulers."""

from __future__ import annotations

import re

from deployments.text.normalization.number_words import cardinal, ordinal

_COUNTED = (
    "Chapter|Part|Act|Scene|Section|Book|Volume|Vol\\.|Article|Appendix|Phase|Type|War|Level|Figure|Fig\\.|Table"
    "|Title|Class|Stage|Episode|Season|Canto|Psalm|Symphony|Sonata|Grade|Factor|Category|Tier|Mark|Lesson|Unit|Page"
    "|Verse|Question|Exhibit"
)
_RULERS = (
    "Henry|Louis|Elizabeth|Charles|George|William|Edward|Richard|James|Philip|Pius|Paul|Benedict|Francis|Napoleon"
    "|Frederick|Leo|Gregory|Catherine|Alexander|Nicholas|Ivan|Peter|Ramesses|Ramses|Mary|Emmanuel|Ferdinand|Alfonso"
    "|Haakon|Christian|Gustav|Otto|Wilhelm|Clement|Innocent|Urban|John|Robert|Stephen|Harald|Carl|Juan|Felipe|Pedro"
    "|Joseph|Leopold|Ptolemy|Cleopatra|Margaret|Isabella|Darius|Xerxes|Constantine|Theodosius|Sixtus|Julius|Boniface"
    "|Celestine|Adrian|Pope|Mehmed|Selim|Murad|Rama|Albert|Baldwin|Conrad|Kenneth|Olaf|Sigismund|Thutmose"
    "|Amenhotep|Vajiravudh|Abdullah|Mohammed"
)
_ONES = r"(?:IX|IV|V?I{1,3}|V)"
_NUMERAL = rf"(?:(?:X{{1,3}}|XL|LX{{0,3}}|XC){_ONES}?|{_ONES})"
_LONG = r"(?:M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3}))"
_AFTER_COUNTED = re.compile(
    rf"\b({_COUNTED}|(?i:chapter|part|act|scene|section|volume|appendix|type|phase|book)s?) ({_NUMERAL})(?![\w'’])"
    rf"(?:[-–]({_NUMERAL})\b)?"
)
_AFTER_RULER = re.compile(
    rf"\b({_RULERS}) (?!I['’]|I (?:am|was|have|had|will|would|do|did|can|could|think|know|said)\b)({_NUMERAL})(?!\w)"
    r"(?!['’](?!s\b))"
)
_AFTER_NAME = re.compile(r"\b([A-Z][a-z]+) ((?:X{1,3}(?:IX|IV|VI{0,3}|I{1,3})|X{2,3}|IX|IV|VI{1,3}|I{2,3}))(?![\w'’])")
_NOT_ROMAN = frozenset({"XX", "XXX"})
_ALONE = re.compile(rf"(?<!\w)(?=[MDCLXVI]{{4,}}\b)(?!MIX|CIVIL|MILD|VIVID|LIVID|DILL|MILL|CIVIC|MIMIC)({_LONG})(?!\w)")
_WORLD_WAR = re.compile(r"\bWW(I{1,2})\b")
_CENTURY = re.compile(rf"\b({_NUMERAL})(?=(?:th|st|nd|rd)? century\b)(?:th|st|nd|rd)?")
_LIST = re.compile(r"^\(?([ivx]{1,5})\)(?= )")
_ANY = re.compile(r"\b(?:(?:WW)?[IVXLCDM]{2,}|WWI|[VX]|(?<=[a-z] )I)(?:\b|th\b|st\b)|^\(?[ivx]+\)")
_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}


def read_roman(text: str) -> str:
    """The text with its Roman numerals in words. Those that may be words or initials stay."""
    if not _ANY.search(text):
        return text
    text = _WORLD_WAR.sub(lambda match: f"World War {cardinal(len(match[1]))}", text)
    text = _AFTER_COUNTED.sub(_counted, text)
    text = _AFTER_RULER.sub(lambda match: f"{match[1]} the {ordinal(_value(match[2]))}", text)
    text = _AFTER_NAME.sub(
        lambda match: match[0] if match[2] in _NOT_ROMAN else f"{match[1]} {cardinal(_value(match[2]))}", text
    )
    text = _CENTURY.sub(lambda match: ordinal(_value(match[1])), text)
    text = _ALONE.sub(lambda match: match[0] if not match[1] else str(_value(match[1])), text)
    return _LIST.sub(lambda match: f"{cardinal(_value(match[1].upper()))},", text)


def _counted(match: re.Match[str]) -> str:
    last = f" to {cardinal(_value(match[3]))}" if match[3] else ""
    return f"{match[1]} {cardinal(_value(match[2]))}{last}"


def _value(numeral: str) -> int:
    values = [_VALUES[letter] for letter in numeral]
    following = [*values[1:], 0]
    return sum(-value if value < after else value for value, after in zip(values, following, strict=True))
