"""The state of a stream of an engine that says a piece of text at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

from deployments.engines.protocols import SpeechRequest


@dataclass(slots=True, eq=False, kw_only=True)
class PieceUtterance:
    """What is left to say: the pieces from `position` on."""

    request: SpeechRequest
    position: int = 0
    closed: bool = False
    pieces: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.pieces = self.request.pieces

    @property
    def finished(self) -> bool:
        """True when every piece was spoken, or the caller left."""
        return self.closed or self.position >= len(self.pieces)
