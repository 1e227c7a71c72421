"""Whether a voice can read the language of a recording."""

from __future__ import annotations

from deployments.engines.protocols import SpeechTraits, Voice
from deployments.errors import fail, quoted
from deployments.tasks.piece_preparation import first_voice
from deployments.text.languages import NAMES, code_of

MOST_LISTED = 12
"""Voices that a refusal lists."""


def ensure_speaks(model: str, traits: SpeechTraits, voice: str, language: str | None) -> None:
    """Raises `MotetError` (unsupported) if a voice of a model is known not to speak a language, a two-letter code. Voices of
    unknown language, such as clips, speak any."""
    own = first_voice(traits, voice)
    if own is None or language is None or language not in NAMES or _speaks(own, language):
        return
    able = [each.id for each in traits.voices if _speaks(each, language)][:MOST_LISTED]
    remedies = [f"Voices that do: {', '.join(able)}." if able else "Choose another model."]
    if _speaks(own, "en"):
        remedies.append("Or send translate=true, which translates into English.")
    raise fail(
        "unsupported",
        f"The voice {quoted(voice)} of {quoted(model)} does not speak {NAMES[language]} ({language}).",
        " ".join(remedies),
        param="voice",
        code="language_not_supported",
    )


def _speaks(voice: Voice, language: str) -> bool:
    """Whether a voice reads a language, or its own is not known."""
    own = code_of(voice.language)
    return own not in NAMES or language == own or language in voice.other_languages
