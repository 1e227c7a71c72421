"""When a client hears each word: words with their times in a piece, on their way through buffers, gaps and encoders."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from deployments.engines.protocols import SpokenWord
from serve_app.gateway.speech.source_map import SourceSpan

Source = tuple[int, int | None]
"""A piece of the text, and the piece with which the fallback voice began that speaks it."""


@dataclass(slots=True)
class _PlacedSpan:
    """Sound of a piece from its sample `sample` on, which lies from `start` to `end` in the stream."""

    sample: int
    start: int
    end: int

    def place_of(self, sample: int) -> int | None:
        """Where a sample of the piece lies in the stream; None if it lies elsewhere."""
        place = self.start + sample - self.sample
        return place if self.start <= place <= self.end else None


@dataclass(slots=True)
class _StreamedPiece:
    """A piece whose sound leaves: the words that were not taken yet, in seconds of its sound, and where its sound lies.
    `awaits_words` while a recogniser looks for them."""

    words: deque[SpokenWord] = field(default_factory=deque)
    placed: list[_PlacedSpan] = field(default_factory=list)
    awaits_words: bool = False


class StreamWords:
    """Places words in a stream of `sample_rate` Hz, of which the client had its first `resumed_samples` before."""

    def __init__(self, sample_rate: int, resumed_samples: int = 0) -> None:
        self._rate = sample_rate
        self._resumed = resumed_samples
        self._pieces: dict[Source, _StreamedPiece] = {}
        self._current: Source | None = None

    def add(self, source: Source, words: Iterable[SpokenWord]) -> None:
        """More words of a piece, in seconds of its sound."""
        self._piece(source).words += words

    def await_words(self, source: Source, *, awaits: bool) -> None:
        """Whether words of a piece may come after its sound has left."""
        self._piece(source).awaits_words = awaits

    def passed(self, spans: Sequence[SourceSpan], reached: int) -> None:
        """The stream leaves up to its sample `reached`, with the sound of these spans."""
        for span, end in zip(spans, [*(span.start for span in spans[1:]), reached], strict=False):
            if not span.concealed:
                self._current = span.position.piece, span.position.fallback_from
                placed = self._piece(self._current).placed
                if placed and placed[-1].place_of(span.position.sample) == span.start == placed[-1].end:
                    placed[-1].end = end
                else:
                    placed.append(_PlacedSpan(span.position.sample, span.start, end))

    def take(self) -> list[tuple[int, SpokenWord]]:
        """The words that begin in what has left and were not taken before, with their pieces, in seconds of the stream."""
        taken = [(source[0], word) for source, piece in self._pieces.items() for word in self._taken(piece)]
        for source, piece in list(self._pieces.items()):
            if not (piece.words or piece.awaits_words or source == self._current):
                del self._pieces[source]
        return taken

    def _piece(self, source: Source) -> _StreamedPiece:
        return self._pieces.setdefault(source, _StreamedPiece())

    def _taken(self, piece: _StreamedPiece) -> Iterator[SpokenWord]:
        """The next words of a piece whose beginning has left. What lies before the first sound of a resumed stream is left
        out."""
        while piece.words and piece.placed:
            word, first = piece.words[0], piece.placed[0]
            at = round(word.start * self._rate)
            places = (place for each in piece.placed if (place := each.place_of(at)) is not None)
            place = next(places, -1 if at < first.sample else None)
            if place is None:
                return
            piece.words.popleft()
            if place >= self._resumed:
                start = (place - self._resumed) / self._rate
                yield SpokenWord(word.text, round(start, 3), round(start + word.end - word.start, 3))
