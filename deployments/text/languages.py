"""Names of languages, as transcripts in OpenAI's form tell them."""

from __future__ import annotations

from collections.abc import Mapping

NAMES: Mapping[str, str] = {
    "en": "english", "de": "german", "es": "spanish", "fr": "french", "it": "italian", "pt": "portuguese",
    "nl": "dutch", "pl": "polish", "ru": "russian", "ja": "japanese", "zh": "chinese", "ko": "korean",
}  # fmt: skip
"""By their codes. Whisper's names of those it reports most; of any other the code is told."""
_CODES: Mapping[str, str] = {name: code for code, name in NAMES.items()}


def code_of(told: str | None) -> str | None:
    """The code of a transcript's language, as an engine gives it; None where nothing was heard."""
    return _CODES.get(told, told) if told else None
