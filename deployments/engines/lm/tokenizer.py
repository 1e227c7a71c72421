"""A tokenizer that treats all input as plain text: special tokens have no effect when a client writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from deployments.errors import fail

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TokenizedText(Protocol):
    """The result of a tokenizer."""

    @property
    def ids(self) -> list[int]:
        """Token ids."""


class TextTokenizer(Protocol):
    """The tokenizer of an engine, such as one of the package `tokenizers`."""

    def encode(self, text: str, *, add_special_tokens: bool) -> TokenizedText:
        """The tokens of a text."""


NEVER_FOUND = ""
"""An empty piece matches no text, and keeps its id."""


def plain_text_tokenizer(file: Path) -> Tokenizer:
    """A `tokenizer.json` without its added tokens, so that `<|endoftext|>` is thirteen characters. Engines insert the special
    tokens of their prompts by id."""
    from tokenizers import Tokenizer

    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    marks = [int(token["id"]) for token in content["added_tokens"]]
    content["added_tokens"] = []
    vocabulary = content["model"]["vocab"]
    # Pairs of piece and score belong to a unigram model, which finds its pieces in any text. The other models only merge
    # towards theirs.
    if isinstance(vocabulary, list):
        for mark in marks:
            if mark < len(vocabulary):
                vocabulary[mark][0] = NEVER_FOUND
    return Tokenizer.from_str(json.dumps(content))


def check_token_count(count: int, longest: int) -> None:
    """Raises `MotetError` (too_large) for a piece of text of more tokens than the model takes."""
    if count > longest:
        cause = f"A piece of the text has {count} tokens; the model takes {longest}."
        raise fail("too_large", cause, "End sentences with full stops.", param="input")
