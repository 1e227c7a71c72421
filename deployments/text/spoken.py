"""What is spoken of a written text: words whose reading is fixed, and everything between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FixedReading:
    """The characters from `start` to `end` of a text are read as `spoken`, whatever the rules of normalisation are."""

    start: int
    end: int
    spoken: str


def spoken_of(text: str, fixed: Iterable[FixedReading], normalize: Callable[[str], str]) -> str:
    """What is spoken of a text. The fixed readings are in order and do not overlap."""
    parts, at = [], 0
    for reading in fixed:
        parts += [_between(text[at : reading.start], normalize), reading.spoken]
        at = reading.end
    return "".join([*parts, _between(text[at:], normalize)])


def _between(text: str, normalize: Callable[[str], str]) -> str:
    """A part of a text, normalised, with the spaces at its ends."""
    core = text.strip()
    if not core:
        return text
    begin = text.index(core[0])
    return text[:begin] + normalize(core) + text[begin + len(core) :]


def with_gaps_filled(
    text: str, fixed: Iterable[FixedReading], more: Callable[[str], Iterable[FixedReading]]
) -> Iterator[FixedReading]:
    """The fixed readings of a text, and between them those that `more` finds in the text there."""
    at = 0
    for reading in fixed:
        yield from _moved(more(text[at : reading.start]), at)
        yield reading
        at = reading.end
    yield from _moved(more(text[at:]), at)


def _moved(readings: Iterable[FixedReading], by: int) -> Iterator[FixedReading]:
    return (FixedReading(reading.start + by, reading.end + by, reading.spoken) for reading in readings)
