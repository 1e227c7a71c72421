"""Sentences as people write them, and how a person reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("written_sentences.txt")


@dataclass(frozen=True, slots=True)
class WrittenSentence:
    """A sentence of a `kind`, such as "money", as it is `written`, and the `intended` reading in words."""

    kind: str
    written: str
    intended: str


def written_sentences() -> tuple[WrittenSentence, ...]:
    """All sentences of the file, in its order."""
    lines = (line for line in FILE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#"))
    return tuple(map(_sentence, lines))


def _sentence(line: str) -> WrittenSentence:
    kind, rest = line.split(" | ", 1)
    written, intended = rest.rsplit(" | ", 1)
    return WrittenSentence(kind, written.replace("\\n", "\n").replace("\\|", "|"), intended)
