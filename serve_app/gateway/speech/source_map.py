"""Which place of the speech every sample of a stream comes from, through buffers, gaps and encoders."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """A place in the sound that a model made: in the sound of which piece of the text, and after how many of its samples.

    Once another model has taken over, it is a place in that one's sound, and `fallback_from` the piece with which it began.
    """

    piece: int
    sample: int
    fallback_from: int | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A stream goes on from its sample `start` with what is at `place`. A `concealed` one is nobody's sound: it stays at the
    place where the speech will go on."""

    start: int
    place: SourcePosition
    concealed: bool = False

    def at(self, sample: int) -> SourcePosition:
        """The place of a sample of the stream."""
        return self.place if self.concealed else replace(self.place, sample=self.place.sample + sample - self.start)


class SourceMap:
    """The stretches of a stream in order, and how far somebody has come. Holds those that lie ahead."""

    def __init__(self) -> None:
        self._ahead: deque[Span] = deque()
        self._position = 0

    def add(self, stretch: Span) -> None:
        """One begins where the last one ends."""
        self._ahead.append(stretch)

    def go(self, end: int) -> list[Span]:
        """Moves on to the stream's sample `end`, which is covered. Returns what was passed."""
        passed = []
        while self._position < end:
            stretch = self._ahead[0]
            passed.append(Span(self._position, stretch.at(self._position), stretch.concealed))
            self._position = end if len(self._ahead) == 1 else min(end, self._ahead[1].start)
            self._drop_what_is_over()
        return passed

    @property
    def here(self) -> SourcePosition:
        """Where the speech goes on. There is at least one stretch."""
        return self._ahead[0].at(self._position)

    def _drop_what_is_over(self) -> None:
        while len(self._ahead) > 1 and self._ahead[1].start <= self._position:
            self._ahead.popleft()
