"""Sopro's text input: a language tag, normalised punctuation, and SentencePiece tokens."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from deployments.engines.lm.tokenizer import check_token_count

if TYPE_CHECKING:
    import sentencepiece

LANGUAGES = {"en": "<|lang_en|>", "pt": "<|lang_pt|>", "fr": "<|lang_fr|>", "de": "<|lang_de|>"}
MOST_TOKENS = 512
_ENDS = (".", "!", "?", "-", ",", ";", ":")
_TIDY = {f" {mark}": mark for mark in ",.!?;:"} | {"“": '"', "”": '"', "‘": "'", "’": "'", "…": "..."}


def tidy(text: str) -> str:
    """Capitalises the first letter, ends the text with a mark, and replaces typographic quotes."""
    text = " ".join(text.split())
    if text[0].islower():
        text = text[0].upper() + text[1:]
    for old in ("…", *(name for name in _TIDY if name != "…")):
        text = text.replace(old, _TIDY[old])
    text = " ".join(text.split())
    return text if text.endswith(_ENDS) else text + "."


class SoproTextEncoder(Protocol):
    """The tokenizer of the engine."""

    def encode(self, text: str, language: str) -> list[int]:
        """The token ids of one piece of text."""


class SoproTokenizer:
    """The model's vocabulary. Only the language tag becomes a special token: in the client's text `<|lang_fr|>` is plain
    letters."""

    def __init__(self, model: sentencepiece.SentencePieceProcessor) -> None:
        self._model = model
        self._bos = model.bos_id() if model.bos_id() >= 0 else 1
        self._eos = model.eos_id() if model.eos_id() >= 0 else 2
        self._spelled = {token: self._letters(token) for token in range(len(model)) if self._is_mark(token)}

    @classmethod
    def read(cls, file: Path) -> SoproTokenizer:
        """Reads `tokenizer.model`."""
        import sentencepiece

        return cls(sentencepiece.SentencePieceProcessor(model_file=str(file)))

    def encode(self, text: str, language: str) -> list[int]:
        """The token ids of one piece of text. `language` is one of `LANGUAGES`, or "". Raises `MotetError` (too_large) for
        more than 512 tokens."""
        tagged = f"{LANGUAGES[language]} {tidy(text)}" if language else tidy(text)
        tokens = [self._bos, *self._ordinary(self._model.encode(tagged, out_type=int), bool(language)), self._eos]
        check_token_count(len(tokens), MOST_TOKENS)
        return tokens

    def _ordinary(self, tokens: list[int], tagged: bool) -> list[int]:
        """Spells out every special token except the tag, which is the first one."""
        tag = next((place for place, token in enumerate(tokens, 1) if token in self._spelled), 0) if tagged else 0
        rest = (self._spelled.get(token, [token]) for token in tokens[tag:])
        return [*tokens[:tag], *chain.from_iterable(rest)]

    def _is_mark(self, token: int) -> bool:
        # SentencePiece does not say which of its pieces are user-defined symbols.
        piece: str = self._model.id_to_piece(token)
        return piece.startswith("<|") and piece.endswith("|>")

    def _letters(self, token: int) -> list[int]:
        return [number for letter in self._model.id_to_piece(token) for number in self._model.encode(letter)]
