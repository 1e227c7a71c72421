"""Text as Sopro reads it: a language tag, tidy punctuation, and SentencePiece tokens."""

from __future__ import annotations

from pathlib import Path

import sentencepiece

LANGUAGES = {"en": "<|lang_en|>", "pt": "<|lang_pt|>", "fr": "<|lang_fr|>", "de": "<|lang_de|>"}
MOST_TOKENS = 512
_ENDS = (".", "!", "?", "-", ",", ";", ":")
_TIDY = {f" {mark}": mark for mark in ",.!?;:"} | {"“": '"', "”": '"', "‘": "'", "’": "'", "…": "..."}


def tidy(text: str) -> str:
    """With a capital at the beginning, a mark at the end, and plain quotes."""
    text = " ".join(text.split())
    if text[0].islower():
        text = text[0].upper() + text[1:]
    for old in ("…", *(name for name in _TIDY if name != "…")):
        text = text.replace(old, _TIDY[old])
    text = " ".join(text.split())
    return text if text.endswith(_ENDS) else text + "."


class Tokenizer:
    """The model's own vocabulary."""

    def __init__(self, model: sentencepiece.SentencePieceProcessor) -> None:
        self._model = model
        self._bos = model.bos_id() if model.bos_id() >= 0 else 1
        self._eos = model.eos_id() if model.eos_id() >= 0 else 2

    @classmethod
    def read(cls, file: Path) -> Tokenizer:
        """Reads `tokenizer.model`."""
        return cls(sentencepiece.SentencePieceProcessor(model_file=str(file)))

    def encode(self, text: str, language: str) -> list[int]:
        """At most 512 token ids of one piece of text. `language` is one of `LANGUAGES`, or empty for none."""
        tagged = f"{LANGUAGES[language]} {tidy(text)}" if language else tidy(text)
        return [self._bos, *self._model.encode(tagged, out_type=int), self._eos][:MOST_TOKENS]
