"""Names of languages as OpenAI's transcripts write them."""

from __future__ import annotations

from collections.abc import Mapping

NAMES: Mapping[str, str] = {
    "en": "english", "de": "german", "es": "spanish", "fr": "french", "it": "italian", "pt": "portuguese",
    "nl": "dutch", "pl": "polish", "ru": "russian", "ja": "japanese", "zh": "chinese", "ko": "korean",
}  # fmt: skip
"""The names of frequent languages by their ISO 639-1 codes, as Whisper writes them. Other languages keep their code."""
_CODES: Mapping[str, str] = {name: code for code, name in NAMES.items()}


def code_of(language: str | None) -> str | None:
    """The code of a language that is given by name or code; None if there is none."""
    return _CODES.get(language, language) if language else None
