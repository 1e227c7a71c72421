"""The text of a piece as VibeVoice-Realtime reads it."""

from __future__ import annotations

from pathlib import Path

from deployments.engines.lm.tokenizer import TextTokenizer, plain_text_tokenizer
from deployments.errors import fail

PLAIN_QUOTES = str.maketrans("’“”", '\'""')
"""Microsoft's own programs replace typographic quotation marks, too."""


class PieceTokenizer:
    """Token ids of a piece. The tokenizer has no special tokens (`plain_text_tokenizer`), so a client cannot write one."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def read(cls, folder: Path) -> PieceTokenizer:
        """With the folder's `tokenizer.json`. Raises `MotetError` (invalid) if there is none."""
        file = folder / "tokenizer.json"
        if not file.exists():
            raise fail(
                "invalid", f"{folder} contains no tokenizer.json.", "Copy that of Qwen/Qwen2.5-0.5B.", param="source"
            )
        return cls(plain_text_tokenizer(file))

    def tokens(self, text: str) -> list[int]:
        """The tokens of the text and the line's end."""
        line = f"{text.translate(PLAIN_QUOTES).strip()}\n"
        return list(self._tokenizer.encode(line, add_special_tokens=False).ids)
