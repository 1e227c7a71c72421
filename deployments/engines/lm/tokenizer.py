"""A tokenizer that reads every text as words: a model's own marks mean nothing when a client writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from deployments.errors import fail

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TokenizedText(Protocol):
    """What a tokenizer makes of a text."""

    @property
    def ids(self) -> list[int]:
        """Token numbers."""


class TextTokenizer(Protocol):
    """A tokenizer that an engine is given, such as one of the package `tokenizers`."""

    def encode(self, text: str, *, add_special_tokens: bool) -> TokenizedText:
        """The tokens of a text."""


NEVER_FOUND = ""
"""A piece of no letters is found in no text, and keeps its number."""


def plain_text_tokenizer(file: Path) -> Tokenizer:
    """A `tokenizer.json` without its added tokens, special ones and others: `<|endoftext|>` is thirteen characters. An engine
    puts the marks of its prompts in by number."""
    from tokenizers import Tokenizer

    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    marks = [int(token["id"]) for token in content["added_tokens"]]
    content["added_tokens"] = []
    vocabulary = content["model"]["vocab"]
    # Pairs of piece and score are a unigram model's, which finds its pieces in any text. Others only merge towards theirs.
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
