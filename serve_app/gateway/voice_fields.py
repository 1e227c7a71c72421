"""The fields with which a client stores a clip as a voice."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Literal

from pydantic import AfterValidator, StringConstraints

from serve_app.gateway.fields import RequestFields

MIN_CONSENT_LETTERS = 5
MIN_CONSENT_CHARACTERS = 10
MAX_NAMED = 5
"""The most hidden characters that an error lists."""
_LINES = dict.fromkeys(map(ord, "\n\r\t"))
_JOINERS = "\u200c\u200d"
_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0"
"""Hangul fillers: invisible characters that Unicode counts as letters."""


def _one_line(text: str) -> str:
    _refuse_hidden(text)
    if not _visible(text):
        raise ValueError("must have a visible character")
    return text


def _in_words(consent: str) -> str:
    _refuse_hidden(consent.translate(_LINES))
    visible = _visible(consent)
    if len(visible) < MIN_CONSENT_CHARACTERS or sum(c.isalpha() for c in visible) < MIN_CONSENT_LETTERS:
        raise ValueError(f"must be in words, with {MIN_CONSENT_CHARACTERS} characters or more")
    return consent


def _refuse_hidden(text: str) -> None:
    """Refuses invisible characters that change how the rest is read, except joiners, which some scripts need."""
    hidden = sorted(unicodedata.name(c, f"U+{ord(c):04X}") for c in set(text) if _is_hidden(c))
    if hidden:
        more = f" and {len(hidden) - MAX_NAMED} more" if len(hidden) > MAX_NAMED else ""
        raise ValueError(f"must be without control characters; it has {', '.join(hidden[:MAX_NAMED])}{more}")


def _visible(text: str) -> list[str]:
    return [c for c in text if c not in _JOINERS + _BLANK_LETTERS]


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf") and character not in _JOINERS


class VoiceFields(RequestFields):
    """The form's fields in OpenAI's names, without the clip.

    `consent` is the text that the speaker agreed to. `text` is Motet's own field: what the clip says.
    """

    name: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100), AfterValidator(_one_line)
    ]
    """The name of the voice, on one line."""
    consent: Annotated[str, StringConstraints(strip_whitespace=True, max_length=4096), AfterValidator(_in_words)]
    """The text that the speaker agreed to, in words."""
    text: Annotated[str, StringConstraints(strip_whitespace=True, max_length=4096)] | None = None
    """What the clip says, which some models use. Motet's own field."""
    type: Literal["audio_sample"] = "audio_sample"
    """The kind of voice."""
