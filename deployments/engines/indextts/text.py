"""IndexTTS's text input: punctuation and numbers normalised by the package, the letter case of the language, and tokens."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from deployments.engines.lm.tokenizer import check_token_count
from deployments.errors import fail

LANGUAGES = ("en", "zh", "es", "ar")
VOCABULARY = "multilingual_zh_ja_yue_char_del"
"""The name of the published file, without `.tiktoken`."""


class IndexTextReader:
    """From a piece of text to tokens. Numbers become words if a normaliser is installed: WeTextProcessing for English and
    Chinese, or NeMo for English, Chinese and Spanish."""

    def __init__(self, folder: Path, most_tokens: int) -> None:
        from indextts25.utils.front import TextNormalizer
        from indextts25.utils.tokenizer import get_encoding

        if not (folder / f"{VOCABULARY}.tiktoken").is_file():
            raise fail("invalid", f"{folder} has no file {VOCABULARY}.tiktoken.", "Copy it there.", param="source")
        self._vocabulary: Any = get_encoding(VOCABULARY, model_dir=str(folder))
        self._marks: Any = TextNormalizer()
        self._most = most_tokens
        self._nemo: dict[str, Any] = {}

    def encode(self, text: str, language: str) -> list[int]:
        """The token ids of one piece of text. Raises `MotetError` (too_large) for more tokens than the model takes."""
        tag = self._vocabulary.encode_single_token(f"<|{language}|>")
        tokens = [tag, *self._vocabulary.encode_ordinary(f" {self.written(text, language)}")]
        check_token_count(len(tokens), self._most)
        return tokens

    def language(self, language: str) -> int:
        """The model's id of a language."""
        from indextts25.utils.tokenizer import lang_to_token

        return int(lang_to_token(language))

    def written(self, text: str, language: str) -> str:
        """The normalised text."""
        normalized = language in ("en", "zh")
        if language != "es":
            text = self._plain(text, keep=":：" if normalized else "")
        if normalized and self._marks.load():
            text = self._marks.normalize(text, language)
        elif normalized or language == "es":
            text = self._by_nemo(text, language)
        text = self._plain(text)
        return text.upper() if language == "es" else text.lower() if normalized else text

    def _plain(self, text: str, keep: str = "") -> str:
        marks = self._marks.char_rep_map
        plain: str = self._marks.clean_pattern.sub(
            lambda found: found[0] if found[0] in keep else marks[found[0]], text
        )
        return plain

    def _by_nemo(self, text: str, language: str) -> str:
        """With numbers as words, if NeMo is installed. Its grammar is compiled in memory, because the package would store it
        as a pickle."""
        if self._nemo_class is None:
            return text
        if language not in self._nemo:
            self._nemo[language] = self._nemo_class(input_case="cased", lang=language)
        return str(self._nemo[language].normalize(text, verbose=False))

    @cached_property
    def _nemo_class(self) -> Any:
        try:
            from nemo_text_processing.text_normalization.normalize import Normalizer
        except ImportError:
            return None
        return Normalizer
