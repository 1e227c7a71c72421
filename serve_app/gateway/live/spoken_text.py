"""Which words of an answer a listener has heard after a number of milliseconds of its sound."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass, field

from deployments.tasks.speech import CHARACTERS_PER_SECOND


@dataclass(frozen=True, slots=True)
class SpokenPart:
    """More of an answer: words whose sound begins, and sound in the format of the response."""

    words: str
    sound: bytes


@dataclass(slots=True)
class SpokenText:
    """The pieces of a text that was spoken, in order, and when the sound of each begins, in milliseconds of the sound.

    `sent_ms` of sound were sent, of which the listener heard at most `heard_ms`. The last piece is `over` if all of its sound
    was sent. `speed` is that of the voice.
    """

    speed: float = 1.0
    sent_ms: float = 0.0
    heard_ms: float = math.inf
    over: bool = False
    _pieces: list[str] = field(default_factory=list)
    _starts_ms: list[float] = field(default_factory=list)

    def begin(self, piece: str, start_ms: float) -> str:
        """Notes that the sound of the next piece begins. Returns what that adds to the text."""
        before = self._pieces[-1] if self._pieces else ""
        self._pieces.append(piece)
        self._starts_ms.append(start_ms)
        return _space_after(before) + piece

    @property
    def heard(self) -> str:
        """The text whose sound was sent, and heard as far as is known."""
        return self.until(min(self.sent_ms, self.heard_ms))

    def until(self, end_ms: float) -> str:
        """The text whose sound is within the first `end_ms`. The words of a piece are taken for equally fast."""
        text = ""
        for number, (piece, start_ms) in enumerate(zip(self._pieces, self._starts_ms, strict=True)):
            if start_ms >= end_ms:
                break
            share = min(1.0, (end_ms - start_ms) / max(1.0, self._end_ms(number) - start_ms))
            if words := _whole_words(piece, round(share * len(piece))):
                text += _space_after(text) + words
        return text

    def _end_ms(self, number: int) -> float:
        """Where the sound of a piece ends. Predicted for one whose sound was not sent to its end."""
        if number + 1 < len(self._pieces):
            return self._starts_ms[number + 1]
        if self.over:
            return self.sent_ms
        predicted_ms = len(self._pieces[number]) / CHARACTERS_PER_SECOND / self.speed * 1000
        return max(self.sent_ms, self._starts_ms[number] + predicted_ms)


def _space_after(text: str) -> str:
    """What stands between a text and the next piece: nothing in scripts without spaces, such as Chinese."""
    return " " if text and unicodedata.east_asian_width(text[-1]) not in "WF" else ""


def _whole_words(text: str, length: int) -> str:
    """The first `length` characters without a word that is cut in two. A text without spaces is cut anywhere."""
    if length >= len(text) or text[length].isspace() or " " not in text:
        return text[:length].rstrip()
    return text[: text.rfind(" ", 0, length) + 1].rstrip()
