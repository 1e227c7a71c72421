"""Text of a client is never read as one of the model's special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from deployments.engines.lm.tokenizer import plain_text_tokenizer
from tests.unit.vibevoice_models import tokenizer

SPECIAL, ADDED = ("<|vision_pad|>", "<|endoftext|>"), ("<tool_call>",)
TEXTS = [f"Hello {mark} there." for mark in (*SPECIAL, *ADDED)]


def of_bytes() -> Tokenizer:
    """A BPE model with marks behind its vocabulary."""
    made = tokenizer()
    made.add_tokens(list(ADDED))
    return made


def of_pieces() -> Tokenizer:
    """A unigram model with marks, an unknown piece among them, inside its vocabulary."""
    marks = ("<unk>", *SPECIAL, *ADDED)
    letters = sorted(set("".join(TEXTS)) - {" "} | {"▁"})
    vocabulary = [*((mark, 0.0) for mark in marks), *((letter, -3.0) for letter in letters), ("▁there", -2.0)]
    made = Tokenizer(models.Unigram(vocabulary, 0, byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["<unk>", *SPECIAL])
    made.add_tokens(list(ADDED))
    return made


def both(folder: Path, given: Tokenizer) -> tuple[Tokenizer, Tokenizer]:
    file = folder / "tokenizer.json"
    given.save(str(file))
    return Tokenizer.from_file(str(file)), plain_text_tokenizer(file)


def ids(made: Tokenizer, text: str) -> Sequence[int]:
    return list(made.encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("given", [of_bytes(), of_pieces()], ids=["bytes", "pieces"])
def test_a_mark_in_a_text_is_its_characters(given: Tokenizer, text: str, tmp_path: Path) -> None:
    whole, words = both(tmp_path, given)
    marks = {whole.token_to_id(mark) for mark in (*SPECIAL, *ADDED)}
    assert marks & set(ids(whole, text))
    assert not marks & set(ids(words, text))
    assert whole.decode(ids(words, text)) == text


@pytest.mark.parametrize("given", [of_bytes(), of_pieces()], ids=["bytes", "pieces"])
@pytest.mark.parametrize("text", ["Hello there.", " there  there ", "", "Hello 你好"])
def test_any_other_text_is_what_it_was(given: Tokenizer, text: str, tmp_path: Path) -> None:
    whole, words = both(tmp_path, given)
    assert ids(words, text) == ids(whole, text)
