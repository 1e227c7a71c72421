"""Sentences as people write them, and how a person reads them, in groups by what the rules of reading owe to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SentenceGroup = Literal["own", "corrected", "held-out"]
FILES: Mapping[SentenceGroup, Path] = {
    "own": Path(__file__).with_name("written_sentences.txt"),
    "corrected": Path(__file__).with_name("corrected_sentences.txt"),
    "held-out": Path(__file__).with_name("held_out_sentences.txt"),
}
"""`own`: the rules were written on them. `corrected`: rules were corrected after the sentences had been read. `held-out`: no
rule was changed after the sentences had been read."""


@dataclass(frozen=True, slots=True)
class WrittenSentence:
    """A sentence of a `kind`, such as "money", as it is `written`, and the `intended` reading in words."""

    group: SentenceGroup
    kind: str
    written: str
    intended: str


def written_sentences(group: SentenceGroup | None = None) -> tuple[WrittenSentence, ...]:
    """The sentences of a group, or all, in the order of their files."""
    return tuple(sentence for name in FILES if group in (None, name) for sentence in _sentences(name))


def _sentences(group: SentenceGroup) -> Iterator[WrittenSentence]:
    for line in FILES[group].read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            kind, rest = line.split(" | ", 1)
            written, intended = rest.rsplit(" | ", 1)
            yield WrittenSentence(group, kind, written.replace("\\n", "\n").replace("\\|", "|"), intended)
