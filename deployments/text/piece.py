"""The parts of a text that are spoken as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text that is spoken as a whole, normally one sentence.

    `text` is the piece as it is written: events, captions and errors show it. `spoken` is what the model reads; without words
    the piece is only its pause. `pause_s` is the silence after it, in seconds. `speed` is a factor on the speed of the
    request, and `voice` another voice of the same model. A piece that `goes_on` is followed by more of its sentence,
    without the silence that a model puts around a piece.
    """

    text: str
    spoken: str
    pause_s: float = 0.0
    speed: float = 1.0
    voice: str | None = None
    goes_on: bool = False


def as_written(texts: Iterable[str]) -> tuple[Piece, ...]:
    """Pieces that are spoken as they are written."""
    return tuple(Piece(text, text) for text in texts)
