"""Reads the part of SSML that people use, within bounds: no document type, no entities, a bounded depth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from xml.parsers import expat

from deployments.errors import MotetError, quoted
from deployments.text.phonemes import pronounced
from deployments.text.ssml.passages import Passage, PassageWriter
from deployments.text.ssml.say_as import SAY_AS
from deployments.text.ssml.values import EMPHASES, PARAGRAPH_PAUSE_S, break_s, invalid, one_of, rate

MAX_DEPTH = 32
MAX_PAUSES_S = 600.0
"""Silence of all breaks of a document."""

ELEMENTS: Mapping[str, tuple[str, ...]] = {
    "speak": ("version", "xmlns", "xml:lang"),
    "p": (),
    "s": (),
    "break": ("time", "strength"),
    "sub": ("alias",),
    "say-as": ("interpret-as", "format"),
    "phoneme": ("ph", "alphabet"),
    "prosody": ("rate",),
    "emphasis": ("level",),
    "voice": ("name",),
}
"""The elements and the attributes that are read. Others are left out, and the answer says so."""
SENTENCES = ("speak", "p", "s")
"""Elements of whole sentences."""
WORDS = ("sub", "say-as", "phoneme")
"""Elements that hold words only."""


@dataclass(frozen=True, slots=True)
class SsmlDocument:
    """The passages of a document, and the attributes that were ignored, such as `prosody.pitch`."""

    passages: tuple[Passage, ...]
    ignored: tuple[str, ...]


def read_ssml(document: str, language: Callable[[str | None], str], *, phonemes: bool) -> SsmlDocument:
    """Reads a document. `language` gives the language of a voice that it names, or for None of the voice that speaks. With
    `phonemes`, pronunciations become `[word](/ipa/)`; without, they are left out. Raises `MotetError` (invalid) that names
    the line and what is wrong. The time is linear in the length."""
    return _Reader(language, phonemes).read(document)


@dataclass(frozen=True, slots=True)
class _Open:
    """An open element, with the speed and the voice inside it."""

    tag: str
    speed: float
    voice: str | None
    attributes: Mapping[str, str]


class _Reader:
    def __init__(self, language: Callable[[str | None], str], phonemes: bool) -> None:
        self._language = language
        self._phonemes = phonemes
        self._writer = PassageWriter()
        self._open: list[_Open] = []
        self._words: list[str] = []
        """The words of an element that holds words only."""
        self._pauses_s = 0.0
        self._ignored: dict[str, None] = {}
        parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = self._refuse_declaration
        self._parser = parser

    def read(self, document: str) -> SsmlDocument:
        try:
            # A lone surrogate, which JSON can carry, is not a character.
            self._parser.Parse(document.strip().encode(errors="replace"), True)
        except expat.ExpatError as error:
            cause = f"The SSML is not well-formed: {expat.errors.messages[error.code]}, in line {error.lineno}."
            raise invalid(cause, 'Close each element, and write & as "&amp;" and < as "&lt;".') from error
        return SsmlDocument(tuple(self._writer.passages), tuple(self._ignored))

    def _refuse_declaration(self, *_: object) -> None:
        raise invalid("The SSML has a document type or an entity.", "Remove <!DOCTYPE ...> and its entities.")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._check(tag)
        self._ignored |= {f"{tag}.{name}": None for name in attributes if name not in ELEMENTS[tag]}
        around = self._open[-1] if self._open else _Open("", 1.0, None, {})
        inside = _Open(tag, around.speed, around.voice, attributes)
        if tag not in WORDS and tag != "break":
            self._writer.end_passage(around.speed, around.voice, sentence=tag in SENTENCES)
            inside = _Open(tag, around.speed * self._factor(tag, attributes), self._voice(inside), attributes)
            if tag == "p":
                self._writer.end_paragraph(PARAGRAPH_PAUSE_S)
        self._open.append(inside)

    def _check(self, tag: str) -> None:
        if tag not in ELEMENTS:
            raise self._wrong(f"has the element <{quoted(tag)[1:-1]}>", f"Supported: {', '.join(ELEMENTS)}.")
        if (tag == "speak") != (not self._open):
            raise self._wrong(f"has <{tag}> in the wrong place", "Put everything into one <speak> ... </speak>.")
        if self._open and self._open[-1].tag in (*WORDS, "break"):
            raise self._wrong(f"has <{tag}> inside <{self._open[-1].tag}>", "Put it around, or beside.")
        if len(self._open) >= MAX_DEPTH:
            raise self._wrong(f"is more than {MAX_DEPTH} elements deep", "Nest less.")

    def _wrong(self, what: str, remedy: str) -> MotetError:
        return invalid(f"The SSML {what} in line {self._parser.CurrentLineNumber}.", remedy)

    def _factor(self, tag: str, attributes: Mapping[str, str]) -> float:
        """The speed inside an element, relative to that around it."""
        if tag == "prosody":
            return rate(attributes.get("rate", "medium"))
        if tag == "emphasis":
            return one_of(attributes.get("level", "moderate"), EMPHASES, "level of <emphasis>")
        return 1.0

    def _voice(self, element: _Open) -> str | None:
        return element.attributes.get("name", element.voice) if element.tag == "voice" else element.voice

    def _text(self, text: str) -> None:
        if self._open and self._open[-1].tag in WORDS:
            self._words.append(text)
        elif not (self._open and self._open[-1].tag == "break"):
            self._writer.write(text)

    def _end(self, tag: str) -> None:
        element = self._open.pop()
        around = self._open[-1] if self._open else element
        if tag in WORDS:
            self._write_words(element)
            return
        if tag == "break":
            self._pause(break_s(element.attributes.get("time"), element.attributes.get("strength")), around)
            return
        self._writer.end_passage(element.speed, element.voice, sentence=tag in SENTENCES)
        if tag == "p":
            self._writer.end_paragraph(PARAGRAPH_PAUSE_S)

    def _pause(self, seconds: float, around: _Open) -> None:
        self._pauses_s += seconds
        if self._pauses_s > MAX_PAUSES_S:
            raise self._wrong(f"has more than {MAX_PAUSES_S:g} s of breaks", "Divide the document.")
        if seconds:
            self._writer.end_passage(around.speed, around.voice, sentence=True)
            self._writer.pause(seconds)

    def _write_words(self, element: _Open) -> None:
        """The words of an element, and what is spoken of them."""
        text = "".join(self._words)
        words, self._words = " ".join(text.split()), []
        spoken = _SPOKEN[element.tag](self, words, element)
        if text[:1].isspace():
            self._writer.write(" ")
        self._writer.write(words or spoken or "", spoken)
        if text[-1:].isspace():
            self._writer.write(" ")

    def _sub(self, words: str, element: _Open) -> str | None:
        return self._needed(element, "alias")

    def _phoneme(self, words: str, element: _Open) -> str | None:
        alphabet = element.attributes.get("alphabet", "ipa")
        if alphabet != "ipa":
            raise self._wrong(f"has a <phoneme> with the alphabet {quoted(alphabet)}", "Write it in ipa.")
        if not words:
            raise self._wrong("has a <phoneme> without a word", "Put the word into it.")
        ipa = self._needed(element, "ph")
        return pronounced(words, ipa) if self._phonemes else None

    def _say_as(self, words: str, element: _Open) -> str | None:
        kind = self._needed(element, "interpret-as")
        if kind not in SAY_AS:
            cause = f"has a <say-as> with interpret-as {quoted(kind)}"
            raise self._wrong(cause, f"Use one of: {', '.join(SAY_AS)}.")
        return SAY_AS[kind](words, element.attributes.get("format", ""), self._language(element.voice))

    def _needed(self, element: _Open, name: str) -> str:
        if not (value := " ".join(element.attributes.get(name, "").split())):
            raise self._wrong(f"has a <{element.tag}> without {name}", f'Write <{element.tag} {name}="...">.')
        return value


_SPOKEN: Mapping[str, Callable[[_Reader, str, _Open], str | None]] = {
    "sub": _Reader._sub,
    "phoneme": _Reader._phoneme,
    "say-as": _Reader._say_as,
}
