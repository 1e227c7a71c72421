"""The chapters of an EPUB, in reading order, as plain text.

EPUB 3.3 (https://www.w3.org/TR/epub-33/): `META-INF/container.xml` names the package file, whose spine lists the documents.
Python's HTML parser reads all three kinds of file. It expands no entities that a file defines.
"""

from __future__ import annotations

import codecs
import html
import posixpath
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from cluster.bulk.raised_text import subscript, superscript
from deployments.errors import fail

CONTAINER = "META-INF/container.xml"
MOST_DOCUMENT_BYTES = 32 * 1024 * 1024
HIDDEN = frozenset(("head", "script", "style", "nav", "svg", "math", "rt", "rp"))
PARTING = (
    "address article aside blockquote body br caption center dd details div dl dt fieldset figcaption figure footer form"
    " h1 h2 h3 h4 h5 h6 header hgroup hr legend li main ol p pre section summary table tbody td tfoot th thead tr ul"
)
BLOCKS = frozenset(PARTING.split())
"""Elements that begin and end a paragraph."""
HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
TITLES = frozenset(("h1", "h2", "h3"))
HEADING_ENDS = "\v"
"""Stands in the collected text behind a heading."""
SCRIPTS = {"sup": superscript, "sub": subscript}
PARTS_BEFORE = 8
"""Parts before a superscript that decide how it is read."""
MARKS = frozenset(("noteref", "doc-noteref"))
"""`epub:type` or `role` of a footnote's mark."""
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?\sencoding\s*=\s*["']([\w.:-]+)["']""")
CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, LookupError, ValueError, RuntimeError)
"""What a damaged archive, a missing file, an unknown encoding, encryption or an unknown compression raises."""


@dataclass(frozen=True, slots=True)
class Chapter:
    """One document of the spine: its first heading, or its file name, and its text, one paragraph a line. An empty line
    follows a heading, so that a voice pauses there.

    If the book does not have the document, `text` is empty and `fault` says why.
    """

    title: str
    text: str = ""
    fault: str = ""


def chapters(path: Path) -> Iterator[Chapter]:
    """Every document of the spine that has text, or a fault. Raises `MotetError` if the file is not an EPUB."""
    try:
        with zipfile.ZipFile(path) as book:
            for address in _spine(book):
                chapter = _chapter(book, address)
                if chapter.text or chapter.fault:
                    yield chapter
    except UNREADABLE as error:
        raise fail(
            "invalid", f"{path} is not a readable EPUB: {error}.", "Check the file, or export it again."
        ) from error


def _spine(book: zipfile.ZipFile) -> list[str]:
    """The paths of the documents within the book. For an item that the package does not list, the name in the spine."""
    container = _Tags(_read(book, CONTAINER))
    packages = [facts["full-path"] for tag, facts in container.tags if tag == "rootfile" and "full-path" in facts]
    if not packages:
        raise KeyError(f"{CONTAINER} names no package")
    package = _Tags(_read(book, packages[0]))
    files = {
        facts["id"]: facts["href"] for tag, facts in package.tags if tag == "item" and {"id", "href"} <= facts.keys()
    }
    order = [facts.get("idref", "") for tag, facts in package.tags if tag == "itemref" and facts.get("linear") != "no"]
    folder = posixpath.dirname(packages[0])
    return [posixpath.normpath(posixpath.join(folder, files.get(name, name))) for name in order]


def _chapter(book: zipfile.ZipFile, address: str) -> Chapter:
    name = _file_at(address, book.namelist())
    if name is None:
        fault = f"The book's spine names {address!r}, which is not in the book."
        return Chapter(posixpath.basename(address), fault=fault)
    parser = _Text()
    parser.feed(_read(book, name))
    parser.close()
    return Chapter(parser.title or posixpath.basename(name), parser.text)


def _file_at(address: str, names: Sequence[str]) -> str | None:
    """The archive's name of a path: as written, without percent encoding, or in another case."""
    raw = address.partition("#")[0]
    wanted = (raw, posixpath.normpath(unquote(raw)))
    folded = {name.casefold(): name for name in names}
    exact = (name for name in wanted if name in names)
    return next(exact, None) or next((folded[name.casefold()] for name in wanted if name.casefold() in folded), None)


def _read(book: zipfile.ZipFile, name: str) -> str:
    with book.open(name) as file:
        data = file.read(MOST_DOCUMENT_BYTES + 1)
    if len(data) > MOST_DOCUMENT_BYTES:
        raise fail("too_large", f"{name} in the EPUB is longer than {MOST_DOCUMENT_BYTES} bytes.", "Split the book.")
    return CDATA.sub(lambda found: html.escape(found[1]), _decoded(data))


def _decoded(data: bytes) -> str:
    """Decodes by the byte-order mark, else the XML declaration, else UTF-8."""
    if data.startswith(UTF_16):
        return data.decode("utf-16")
    declared = DECLARED.match(data)  # it was found as single bytes, so UTF-16 would be wrong
    name = declared[1].decode().lower() if declared else "utf-8"
    if data.startswith(codecs.BOM_UTF8) or name.startswith("utf-16"):
        name = "utf-8"
    return data.decode(name).removeprefix("\ufeff")


class _Tags(HTMLParser):
    """Collects tags with their attributes, without namespaces."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = {name: value for name, value in attrs if value is not None}
        self.tags.append((tag.rpartition(":")[2], facts))


class _Text(HTMLParser):
    """Collects the text that is read aloud."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self._parts: list[str] = []
        self._heading: int | None = None
        """The index in `parts` where the open heading begins; likewise the next ones."""
        self._hidden: list[str] = []
        self._marks = _Marks()
        self._scripts: list[int] = []
        """The indices in `parts` where the open superscripts and subscripts begin."""

    @property
    def text(self) -> str:
        """The text with one paragraph a line, single spaces, and an empty line after each heading."""
        blocks = ("".join(self._parts)).split(HEADING_ENDS)
        return "\n\n".join(text for text in map(_paragraphs, blocks) if text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body":  # anything before is not text, and may be a document type that HTML does not know
            self._parts.clear()
        # Elements of the same name inside a hidden one are counted, so that it ends with its own end tag.
        if tag in HIDDEN or _is_mark(attrs) or (self._hidden and tag == self._hidden[-1]):
            self._hidden.append(tag)
        self._marks.start(tag, any(name == "href" for name, _ in attrs), self._parts)
        if tag in BLOCKS:
            self._parts.append("\n")
        if tag in SCRIPTS:
            self._scripts.append(len(self._parts))
        if tag in TITLES and not self.title:
            self._heading = len(self._parts)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in BLOCKS:
            self._parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if self._hidden and tag == self._hidden[-1]:
            self._hidden.pop()
        self._marks.end(tag, self._parts)
        if tag in SCRIPTS and self._scripts:
            self._end_script(tag, self._scripts.pop())
        if tag in TITLES and self._heading is not None:
            self.title = " ".join("".join(self._parts[self._heading :]).split())
            self._heading = None
        if tag in BLOCKS:
            self._parts.append(HEADING_ENDS if tag in HEADINGS else "\n")

    def _end_script(self, tag: str, begin: int) -> None:
        """Rewrites the parts of a superscript or subscript. Their number stays, since marks are known by their places."""
        if inside := self._parts[begin:]:
            before = "".join(self._parts[max(0, begin - PARTS_BEFORE) : begin])
            self._parts[begin:] = [SCRIPTS[tag]("".join(inside), before), *[""] * (len(inside) - 1)]

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._parts.append(re.sub(r"\s+", " ", data))


def _paragraphs(text: str) -> str:
    lines = (re.sub(r"\s+", " ", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def _is_mark(attrs: list[tuple[str, str | None]]) -> bool:
    return any(name in ("epub:type", "role") and MARKS & set((value or "").split()) for name, value in attrs)


class _Marks:
    """Removes the marks of footnotes that are not declared: superscript links, and links that are superscript as a
    whole."""

    def __init__(self) -> None:
        self._link: int | None = None
        self._raised: int | None = None
        self._raised_end: int | None = None
        self._linked = False

    def start(self, tag: str, has_address: bool, parts: list[str]) -> None:
        """Begins an element. `parts` is the text so far."""
        if tag == "sup":
            self._raised, self._linked = len(parts), False
        elif tag == "a" and has_address:
            self._link, self._raised_end, self._linked = len(parts), None, self._raised is not None

    def end(self, tag: str, parts: list[str]) -> None:
        """Ends an element, and removes its text if it was a mark."""
        if tag == "sup" and self._raised is not None:
            if self._linked:
                del parts[self._raised :]
            elif self._link is not None and _blank(parts[self._link : self._raised]):
                self._raised_end = len(parts)
            self._raised = None
        elif tag == "a" and self._link is not None:
            if self._raised_end is not None and _blank(parts[self._raised_end :]):
                del parts[self._link :]
            self._link = self._raised_end = None


def _blank(parts: list[str]) -> bool:
    return not "".join(parts).strip()
