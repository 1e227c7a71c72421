"""The chapters of an EPUB, in reading order, as plain text.

EPUB 3.3 (https://www.w3.org/TR/epub-33/): `META-INF/container.xml` names the package file, whose spine lists the documents.
Python's HTML parser reads all three kinds of file: it expands no entities that a file defines for itself.
"""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from deployments.errors import fail

CONTAINER = "META-INF/container.xml"
MOST_DOCUMENT_BYTES = 32 * 1024 * 1024
HIDDEN = frozenset(("head", "script", "style", "nav", "svg", "math", "rt", "rp"))
BLOCKS = frozenset(
    ("p", "div", "section", "article", "h1", "h2", "h3", "h4", "h5", "h6", "li", "blockquote", "tr", "dt", "dd", "hr")
)
HEADINGS = frozenset(("h1", "h2", "h3"))


@dataclass(frozen=True, slots=True)
class Chapter:
    """One document of the spine: its first heading, or its file's name, and its text, a paragraph a line."""

    title: str
    text: str


def chapters(path: Path) -> Iterator[Chapter]:
    """Every document of the spine that has text. Raises `MotetError` for what is not an EPUB."""
    try:
        with zipfile.ZipFile(path) as book:
            names = set(book.namelist())
            for name in _spine(book):
                if name in names:
                    parser = _Text()
                    parser.feed(_read(book, name))
                    parser.close()
                    if parser.text:
                        yield Chapter(parser.title or posixpath.basename(name), parser.text)
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError) as error:
        raise fail(
            "invalid", f"{path} is not a readable EPUB: {error}", "Check the file, or export it again."
        ) from error


def _spine(book: zipfile.ZipFile) -> list[str]:
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
    return [posixpath.normpath(posixpath.join(folder, unquote(files[name]))) for name in order if name in files]


def _read(book: zipfile.ZipFile, name: str) -> str:
    with book.open(name) as file:
        data = file.read(MOST_DOCUMENT_BYTES + 1)
    if len(data) > MOST_DOCUMENT_BYTES:
        raise fail("too_large", f"{name} in the EPUB is longer than {MOST_DOCUMENT_BYTES} bytes.", "Split the book.")
    return data.decode("utf-8-sig")


class _Tags(HTMLParser):
    """Every tag with its attributes, without its namespace."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = {name: value for name, value in attrs if value is not None}
        self.tags.append((tag.rpartition(":")[2], facts))


class _Text(HTMLParser):
    """What a reader would read aloud."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self._parts: list[str] = []
        self._heading: list[str] | None = None
        self._hidden: list[str] = []

    @property
    def text(self) -> str:
        """Paragraphs on lines of their own, with single spaces."""
        lines = ("".join(self._parts)).split("\n")
        return "\n".join(line for line in (re.sub(r"\s+", " ", line).strip() for line in lines) if line)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "body":  # what was before is no text, and may be a document type that HTML does not know
            self._parts.clear()
        if tag in HIDDEN:
            self._hidden.append(tag)
        if tag in BLOCKS or tag == "br":
            self._parts.append("\n")
        if tag in HEADINGS and not self.title:
            self._heading = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in BLOCKS or tag == "br":
            self._parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if self._hidden and tag == self._hidden[-1]:
            self._hidden.pop()
        if tag in BLOCKS:
            self._parts.append("\n")
        if tag in HEADINGS and self._heading is not None:
            self.title = re.sub(r"\s+", " ", "".join(self._heading)).strip()
            self._heading = None

    def handle_data(self, data: str) -> None:
        if self._hidden:
            return
        self._parts.append(re.sub(r"\s+", " ", data))
        if self._heading is not None:
            self._heading.append(data)
