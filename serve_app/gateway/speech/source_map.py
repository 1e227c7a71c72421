"""Which position of the speech every sample of a stream comes from, through buffers, gaps and encoders."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """A position in the sound that a model makes of a text: after `sample` samples of piece number `piece`.

    Once a fallback model has taken over it is a position in that model's sound, and `fallback_from` is the piece with which
    the fallback began.
    """

    piece: int
    sample: int
    fallback_from: int | None = None


@dataclass(frozen=True, slots=True)
class SourceSpan:
    """From its sample `start` on, a stream has the sound at `position`. A `concealed` span has no sound of a model: its
    position is the one at which the speech will go on."""

    start: int
    position: SourcePosition
    concealed: bool = False

    def at(self, sample: int) -> SourcePosition:
        """The position of a sample of the stream."""
        if self.concealed:
            return self.position
        return replace(self.position, sample=self.position.sample + sample - self.start)


class SourceMap:
    """The spans of a stream in order, and how far a reader has come. It holds only spans that end ahead of the reader."""

    def __init__(self) -> None:
        self._ahead: deque[SourceSpan] = deque()
        self._read = 0

    def add(self, span: SourceSpan) -> None:
        """Appends a span. It begins where the one before it ends."""
        self._ahead.append(span)

    def advance(self, end: int) -> list[SourceSpan]:
        """Moves the reader to the stream's sample `end`, which must be covered. Returns the spans that it passes, cut to
        what it passes of them."""
        passed = []
        while self._read < end:
            span = self._ahead[0]
            passed.append(SourceSpan(self._read, span.at(self._read), span.concealed))
            self._read = end if len(self._ahead) == 1 else min(end, self._ahead[1].start)
            while len(self._ahead) > 1 and self._ahead[1].start <= self._read:
                self._ahead.popleft()
        return passed

    @property
    def position(self) -> SourcePosition:
        """The position at which the reader goes on. There must be a span."""
        return self._ahead[0].at(self._read)
