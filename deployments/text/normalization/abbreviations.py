"""English abbreviations as words."""

from __future__ import annotations

import re

_TITLES = {
    "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "Dr": "Doctor", "Prof": "Professor", "Gen": "General",
    "Gov": "Governor", "Sen": "Senator", "Rep": "Representative", "Capt": "Captain", "Lt": "Lieutenant",
    "Col": "Colonel", "Sgt": "Sergeant", "Rev": "Reverend", "Hon": "Honorable", "Pres": "President", "Maj": "Major",
    "Cpl": "Corporal", "Cmdr": "Commander", "St": "Saint", "Mt": "Mount", "Ft": "Fort", "Supt": "Superintendent",
    "Fr": "Father",
}  # fmt: skip
_WORDS = {
    "approx.": "approximately", "vs.": "versus", "vs": "versus", "etc.": "et cetera", "e.g.": "for example",
    "i.e.": "that is", "E.g.": "For example", "I.e.": "That is", "Jr.": "Junior", "Sr.": "Senior", "Ave.": "Avenue",
    "Blvd.": "Boulevard", "Rd.": "Road",
    "Ltd.": "Limited", "Inc.": "Incorporated", "Corp.": "Corporation", "Co.": "Company", "Dept.": "Department",
    "dept.": "department", "est.": "established", "cf.": "compare", "et al.": "et al", "a.k.a.": "also known as",
    "aka": "also known as", "Bros.": "Brothers", "Apt.": "Apartment", "Hwy.": "Highway", "Univ.": "University",
    "max.": "maximum", "min.": "minimum", "incl.": "including", "excl.": "excluding", "avg.": "average",
    "tel.": "telephone", "Tel.": "Telephone", "govt.": "government", "Govt.": "Government", "ca.": "circa",
    "Esq.": "Esquire", "exec.": "executive", "Exec.": "Executive", "asst.": "assistant", "Asst.": "Assistant",
    "Min.": "Minimum", "Approx.": "Approximately", "Incl.": "Including", "Excl.": "Excluding",
    "Avg.": "Average",
}  # fmt: skip
_STATES = {
    "Ala": "Alabama", "Ariz": "Arizona", "Ark": "Arkansas", "Calif": "California", "Colo": "Colorado",
    "Conn": "Connecticut", "Del": "Delaware", "Fla": "Florida", "Ga": "Georgia", "Ill": "Illinois", "Ind": "Indiana",
    "Kan": "Kansas", "Ky": "Kentucky", "La": "Louisiana", "Md": "Maryland", "Mass": "Massachusetts", "Mich": "Michigan",
    "Minn": "Minnesota", "Miss": "Mississippi", "Mo": "Missouri", "Mont": "Montana", "Neb": "Nebraska", "Nev": "Nevada",
    "N.C": "North Carolina", "N.H": "New Hampshire", "N.J": "New Jersey", "N.M": "New Mexico", "N.Y": "New York",
    "Okla": "Oklahoma", "Ore": "Oregon", "Pa": "Pennsylvania", "S.C": "South Carolina", "Tenn": "Tennessee", "Tex": "Texas",
    "Va": "Virginia", "Vt": "Vermont", "Wash": "Washington", "Wis": "Wisconsin", "Wyo": "Wyoming",
}  # fmt: skip
_BEFORE_NUMBERS = {
    "vol": "volume", "fig": "figure", "figs": "figures", "ch": "chapter", "sec": "section", "pp": "pages", "p": "page",
    "eq": "equation", "art": "article", "ed": "edition", "par": "paragraph", "op": "opus", "ext": "extension",
    "no": "number", "nos": "numbers",
}  # fmt: skip
_TITLE = re.compile(rf"\b({'|'.join(_TITLES)})\.? (?=[A-Z])")
_BARE_TITLE = re.compile(r"\b(Rep|Hon|Gen|Sen|Gov|Pres|Col|Fr|Maj|Rev) (?=[A-Z])")
_STREET = re.compile(r"(?<=[a-z]) (St|Dr|Ln|Pl|Ct)\.(?=,| [a-z]|$)")
_STREETS = {
    "St": "Street",
    "Dr": "Drive",
    "Ln": "Lane",
    "Pl": "Place",
    "Ct": "Court",
    "Ave": "Avenue",
    "Rd": "Road",
    "Blvd": "Boulevard",
}
_HOUSE = re.compile(rf"(\b\d{{1,5}}[A-Za-z]? (?:[A-Z][\w']* ){{1,4}})({'|'.join(_STREETS)})\b\.?(?!\w)")
_DIRECTIONS = {"N": "North", "S": "South", "E": "East", "W": "West"}
_DIRECTION = re.compile(
    rf"(?<=\d )([NSEW])\.? (?=(?:\d{{1,3}}(?:st|nd|rd|th)|[A-Z][a-z]+) (?:{'|'.join((*_STREETS, *_STREETS.values()))})\b)"
)
_STATE = re.compile(rf"(?<=[a-z], )({'|'.join(map(re.escape, _STATES))})\.")
_CIRCA = re.compile(r"\bca?\.\s?(?=\d{3,4}\b)")
_WORD = re.compile(rf"(?<![\w.])({'|'.join(re.escape(word) for word in sorted(_WORDS, key=len, reverse=True))})(?!\w)")
_NUMBERED = re.compile(rf"\b({'|'.join(_BEFORE_NUMBERS)})\.\s?(?=\d|(?-i:[ivx]+\b|[IVX]{(2,)}\b))", re.I)
_ANY = re.compile(
    r"\.(?!$)|\b[A-Z][a-z]{1,3} [A-Z]|\b(?:vs|aka)\b"
    r"|\b(?:etc|[JS]r|St|Dr|Ave|Rd|Blvd|Inc|Ltd|Co|Corp|al)\.$|, [A-Z][a-z]{1,4}\.$"
)
_AT_END = re.compile(r"[\s\"'”’)]*$")


def read_abbreviations(text: str) -> str:
    """The text with its abbreviations in words. A point that also ends the sentence stays."""
    if not _ANY.search(text):
        return text
    text = _CIRCA.sub("circa ", _NUMBERED.sub(_numbered, text))
    text = _HOUSE.sub(lambda match: f"{match[1]}{_STREETS[match[2]]}{_point(match)}", text)
    if "." in text:
        text = _STREET.sub(lambda match: f" {_STREETS[match[1]]}{_point(match)}", text)
        text = _STATE.sub(lambda match: f"{_STATES[match[1]]}{_point(match)}", text)
    text = _TITLE.sub(_title, text)
    return _WORD.sub(lambda match: _WORDS[match[1]] + (_point(match) if match[1].endswith(".") else ""), text)


def read_directions(text: str) -> str:
    """The text with the directions of streets in words: "220 W. 14th St.". Before units, because W is also a watt."""
    return _DIRECTION.sub(lambda match: f"{_DIRECTIONS[match[1]]} ", text)


def _numbered(match: re.Match[str]) -> str:
    word = _BEFORE_NUMBERS[match[1].lower()]
    return f"{word.capitalize() if match[1][0].isupper() else word} "


def _title(match: re.Match[str]) -> str:
    return match[0] if _BARE_TITLE.fullmatch(match[0]) else f"{_TITLES[match[1]]} "


def _point(match: re.Match[str]) -> str:
    return "." if _AT_END.match(match.string, match.end()) else ""
