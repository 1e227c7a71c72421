"""How repetitive a text is, as OpenAI's transcripts say it."""

from __future__ import annotations

import zlib


def compression_ratio(text: str) -> float:
    """The text's bytes over its compressed bytes: high for repetitions (openai/whisper, utils.py)."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))
