"""Signs of mathematics and other signs between words, in English."""

from __future__ import annotations

import re

_ALWAYS = {
    "×": "times", "÷": "divided by", "±": "plus or minus", "≤": "less than or equal to",
    "≥": "greater than or equal to", "≠": "not equal to", "≈": "approximately", "≡": "identical to", "∞": "infinity",
    "√": "the square root of", "∛": "the cube root of", "π": "pi", "∑": "the sum of", "∏": "the product of",
    "∫": "the integral of", "∂": "partial", "∆": "delta", "∈": "in", "∉": "not in", "∪": "union", "∩": "intersection",
    "∴": "therefore", "⇒": "implies", "⇔": "if and only if", "→": "to", "←": "from", "↔": "to and from", "²": "squared",
    "³": "cubed", "§": "section", "¶": "paragraph", "©": "copyright", "°": "degrees", "µ": "micro", "✓": "check",
    "✔": "check", "‰": "per mille", "−": "minus", "⋅": "times", "∙": "times", "™": "", "®": "", "•": "", "·": "",
    "¬": "not", "ª": "", "⁴": "to the fourth", "%": "percent", "¢": "cents",
}  # fmt: skip
_ALWAYS_SIGN = re.compile(f" ?([{re.escape(''.join(_ALWAYS))}]) ?")
_ANY = re.compile(r"[^\w\s.,;:!?'’\"“”()-]|[_²³ªµπ⁰¹⁴-⁹ⁿ₀-₉]|--| - | -[A-Za-z]\b|->|\b[fghFGHP]\(")
_LETTER_RANGE = re.compile(
    r"(\b(?:[Ff]rom|[Ww]ith|[Ll]etters?|[Nn]ames|[Ss]urnames|[Rr]ows?|[Gg]ates?|[Gg]roups?|[Gg]rades?|[Ss]ections?"
    r"|[Vv]olumes?) )"
    r"([A-Z])\s?[-–]\s?([A-Z])(?![\w-])|(?<![\w-])(A)[-–](Z)(?![\w-])"
)
_ARROW = re.compile(r"\s?(?:-{1,2}>|=>)\s?")
_COMPARED = re.compile(r"(?<=[\w)\]%])\s?(<=|>=|!=|==|=|<|>)\s?(?=[\w(\[+−$€£√-])")
_COMPARISONS = {
    "<=": "is less than or equal to", ">=": "is greater than or equal to", "!=": "is not equal to", "==": "equals",
    "=": "equals", "<": "is less than", ">": "is greater than",
}  # fmt: skip
_POWER = re.compile(r"(?<=[\w)\]])\s?(?:\^|\*\*)\s?\(?(-?\w+)\)?")
_RAISED = re.compile("[⁰¹²³⁴-⁹⁺⁻ⁿ]+")
_OWN_WORDS = ("²", "³", "⁴")
"""Superscripts of `_ALWAYS`."""
_LOWERED = re.compile("[₀-₉₊₋]+")
_LEVEL = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ₀₁₂₃₄₅₆₇₈₉₊₋", "0123456789+-n0123456789+-")
_POWERS = {"2": "squared", "two": "squared", "3": "cubed", "three": "cubed"}
_TIMES = re.compile(r"(?<=[\d)])\s?\*\s?(?=[\w(])|(?<=\w)\s\*\s(?=\w)")
_PLUS = re.compile(r"(?<=[\w)\]²³])\s\+\s(?=[\w(])|(?<=\d)\+(?=\d)")
_PLUS_SIGN = re.compile(r"(?<![\w+])\+(?=[\d.])")
_OR_MORE = re.compile(r"(?<=\d)\+(?![\w+])")
_MINUS = re.compile(r"(?<=[\w)])\s-\s(?=[\w(])")
_NEGATIVE_LETTER = re.compile(r"(?<=equals )-(?=\w)|(?<=\()-(?=\w)")
_DIVIDED = re.compile(r"(?<=[\d)])\s/\s(?=[\d(]|[A-Za-z]\b)")
_LETTERS_MINUS = re.compile(r"(?<=\([a-z])\s[-−]\s(?=[a-z]\))")
_OPTION = re.compile(r"(?<=\w )(--?)(?=[B-HJ-Zb-hj-z]\b(?!['’.])|(?<=--)[a-z]{2})")
_DIVIDED_LETTERS = re.compile(r"(?<=\w)\s/\s(?=\w)")
_FUNCTION = re.compile(r"(?<![\w.])([fghFGHP])\(([A-Za-z])\)")
_GRADE = re.compile(r"(?<!\w)([A-F])([+−])(?!\w|\+)")
_LANGUAGES = re.compile(r"(?<!\w)(?:C\+\+|g\+\+)|(?<!\w)([CFA-H])#(?!\w)")
_ABOUT = re.compile(r"(?<!\w)~\s?(?=[\d$€£])")
_LESS = re.compile(r"(?<!\S)([<>])\s?(?=[\d$€£])")
_AND = re.compile(r"\s?&{1,2}\s?(?!\w+;)")
_INITIALS = re.compile(r"(?<=\b[A-Z])&(?=[A-Z]\b)")
_OPTIONS = re.compile(r"(?<=[^\W\d_])\s?/\s?(?=[^\W\d_])|(?<=[\w)])/(?=[\w(])")
_AND_OR = re.compile(r"\band/or\b", re.I)
_OR = re.compile(r"\b(he|she|his|her|him|s?he|yes|no|true|false|on|off|either|mr|mrs|black|white)/(?=\w)", re.I)
_WITH = re.compile(r"(?<!\w)w/(o)?(?=\s|\w{3})")
_AT = re.compile(r"\s@\s")
_BARS = re.compile(r"\s?\|+\s?")
_DROPPED = re.compile(r"[*_\\^~`{}<>#|]+|(?<!\S)/+(?!\S)|(?<!\S)=+(?!\S)|/{2,}")
_DASHES = re.compile(r"\s?-{2,3}\s?(?=\w)")


def read_signs(text: str) -> str:
    """The text with its signs in words, and without those that are not read aloud."""
    if "-" in text or "–" in text:
        text = _LETTER_RANGE.sub(_letters, text)
    if not _ANY.search(text):
        return text
    if not text.isascii():
        text = _LOWERED.sub(lambda match: f" {match[0].translate(_LEVEL)} ", _RAISED.sub(_power, text))
        text = _ALWAYS_SIGN.sub(_always, text)
    text = _OPTION.sub(lambda match: "dash " * len(match[1]), text)
    text = _LANGUAGES.sub(lambda match: f"{match[1]} sharp" if match[1] else f"{match[0][0]} plus plus", text)
    text = _arithmetic(text)
    if "/" in text:
        text = _AND_OR.sub("and or", text)
        text = _OR.sub(r"\1 or ", text)
        text = _WITH.sub(lambda match: "without" if match[1] else "with ", text).replace("with  ", "with ")
        text = _OPTIONS.sub(" ", text)
    text = _AND.sub(" and ", _INITIALS.sub(" and ", text))
    text = _AT.sub(" at ", text)
    text = text.replace(" is is ", " is ")
    return _DROPPED.sub(" ", _BARS.sub(", ", _DASHES.sub(" — ", text)))


def _arithmetic(text: str) -> str:
    text = _FUNCTION.sub(r"\1 of \2", _ARROW.sub(" to ", text))
    text = _COMPARED.sub(lambda match: f" {_COMPARISONS[match[1]]} ", text)
    text = _LESS.sub(lambda match: "less than " if match[1] == "<" else "more than ", text)
    text = _ABOUT.sub("about ", text)
    text = _POWER.sub(
        lambda match: f" {_POWERS.get(match[1]) or 'to the power of ' + match[1].replace('-', 'minus ')}", text
    )
    text = _TIMES.sub(" times ", text)
    text = _PLUS.sub(" plus ", text)
    text = _PLUS_SIGN.sub("plus ", text)
    text = _OR_MORE.sub(" plus", text)
    if "equals" in text:
        text = _DIVIDED_LETTERS.sub(" divided by ", text)
        text = _NEGATIVE_LETTER.sub("minus ", _MINUS.sub(" minus ", text))
    text = _DIVIDED.sub(" divided by ", _LETTERS_MINUS.sub(" minus ", text))
    return _GRADE.sub(lambda match: f"{match[1]} {'plus' if match[2] == '+' else 'minus'}", text)


def _letters(match: re.Match[str]) -> str:
    return f"{match[1] or ''}{match[2] or match[4]} to {match[3] or match[5]}"


def _power(match: re.Match[str]) -> str:
    return match[0] if match[0] in _OWN_WORDS else f"^({match[0].translate(_LEVEL).lstrip('+')})"


def _always(match: re.Match[str]) -> str:
    said = _ALWAYS[match[1]]
    return f" {said} " if said else " "
