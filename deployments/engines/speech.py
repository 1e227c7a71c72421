"""What speech engines share: the state of a stream that is spoken piece by piece, and the check of a voice."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from deployments.engines.protocols import Samples, SpeechRequest
from deployments.errors import MotetError, fail

SILENCE: Samples = np.zeros(0, np.float32)


@dataclass(slots=True, eq=False, kw_only=True)
class PieceUtterance:
    """The state of a stream: the pieces from `position` on are still to be spoken. An engine adds its own fields."""

    request: SpeechRequest
    position: int = 0
    closed: bool = False
    pieces: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.pieces = self.request.pieces

    @property
    def finished(self) -> bool:
        """True when every piece was spoken, or the caller closed the utterance."""
        return self.closed or self.position >= len(self.pieces)

    @property
    def index(self) -> int:
        """The index of the next piece in the whole text."""
        return self.request.first_index + self.position


def unknown_voice(name: str, voices: Collection[str]) -> MotetError:
    """The error (not_found) for a voice that is not among the model's `voices`."""
    known = ", ".join(voices) or "none; send a clip"
    return fail("not_found", f"There is no voice {name!r}.", f"Voices: {known}.", param="voice")


def cut_at_spaces(text: str, longest: int) -> list[str]:
    """The text in parts of at most `longest` characters, cut at the last space of a part if it has one."""
    parts = []
    while len(text) > longest:
        cut = text.rfind(" ", 1, longest + 1)
        cut = longest if cut < 0 else cut
        parts.append(text[:cut])
        text = text[cut:].lstrip()
    return [*parts, text] if text else parts
