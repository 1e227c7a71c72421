"""A tokenizer that reads every text as words: a model's own marks mean nothing when a client writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

NEVER_FOUND = ""
"""A piece of no letters is found in no text, and keeps its number."""


def words_of(file: Path) -> Tokenizer:
    """A `tokenizer.json` without its added tokens, special ones and others: `<|endoftext|>` is thirteen characters. An engine
    puts the marks of its prompts in by number."""
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
