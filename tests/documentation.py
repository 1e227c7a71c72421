"""The pages of the documentation, and the examples on them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted(page for page in DOCS.rglob("*.md") if "node_modules" not in page.parts),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"(^|\s)#.*")
VARIABLE = re.compile(r"[A-Z]\w*=\S*")
OPERATORS = {"|", "||", "&&", ";", ">", ">>", "<", "&"}


@dataclass(frozen=True)
class Example:
    """A block of code. `line` is that of its first line on the page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def examples_of(page: Path) -> Iterator[Example]:
    """The blocks of code of a page, in order."""
    text = page.read_text()
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start(2)) + 1
        yield Example(page, line, found[1], found[2])


def examples(*languages: str) -> list[Example]:
    """The blocks of all pages in these languages."""
    return [each for page in PAGES for each in examples_of(page) if each.language in languages]


def commands_of(script: str) -> Iterator[list[str]]:
    """The words of each command of a shell script, without variables before it and without redirections' signs."""
    for line in script.replace("\\\n", " ").splitlines():
        yield from _commands(COMMENT.sub("", line))


def inline_commands(page: Path) -> Iterator[list[str]]:
    """Commands of Motet inside sentences, such as `motet say`."""
    text = FENCE.sub("", page.read_text())
    for found in re.findall(r"`((?:[A-Z_]+=\S+ )*motet [a-z][^`]*)`", text):
        yield from _commands(" ".join(re.sub(r"[][]", "", found).split()))  # [--what may be left out]


def _commands(line: str) -> Iterator[list[str]]:
    words = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    words.whitespace_split = True
    command: list[str] = []
    redirected = False
    for word in words:
        if word in OPERATORS:
            redirected = word in (">", ">>", "<")
            if not redirected:
                yield from filter(None, [command])
                command = []
        elif redirected:
            redirected = False
        elif command or not VARIABLE.fullmatch(word):
            command.append(word)
    yield from filter(None, [command])
