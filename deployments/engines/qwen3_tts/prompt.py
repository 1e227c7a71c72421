"""Qwen3-TTS's prompt: instructions, marks of the language and the speaker, and the text.

Each position is the sum of a text embedding and a code embedding, except for the instructions and the mark of the turn, which
are text alone. The whole text is in the prompt.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from deployments.engines.lm.tokenizer import TextTokenizer, plain_text_tokenizer
from deployments.engines.qwen3_tts.config import Qwen3TtsConfig
from deployments.engines.qwen3_tts.networks import Qwen3TtsNetworks
from deployments.errors import fail

WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2's tokenizer cuts a text before it merges bytes."""


def read_tokenizer(folder: Path) -> TextTokenizer:
    """The tokenizer of `tokenizer.json`, or of `vocab.json` and `merges.txt`, which the published models have.

    Raises `MotetError` (invalid) if there is none.
    """
    if (folder / "tokenizer.json").exists():
        return plain_text_tokenizer(folder / "tokenizer.json")
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    if not (vocabulary.exists() and merges.exists()):
        raise fail("invalid", f"{folder} contains no tokenizer.", "Check the model's source.", param="source")
    return _qwen2_tokenizer(vocabulary, merges)


def _qwen2_tokenizer(vocabulary: Path, merges: Path) -> TextTokenizer:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


class Qwen3TtsPrompts:
    """Builds prompts from a text, a speaker, a language and instructions."""

    def __init__(self, tokenizer: TextTokenizer, networks: Qwen3TtsNetworks) -> None:
        self._tokenizer, self._networks = tokenizer, networks
        self._config: Qwen3TtsConfig = networks.config

    def prefix(self, speaker: Tensor, language: int | None, instructions: str) -> Tensor:
        """(n, dim): all that comes before the text. `speaker` is (1, dim), or (0, dim) for none; `language` is the code of a
        language, None for that of the text."""
        marks = self._config.marks
        tags = [marks.no_think, marks.think_begin, marks.think_end]
        if language is not None:
            tags = [marks.think, marks.think_begin, language, marks.think_end]
        codes = torch.cat([self._codes(tags), speaker, self._codes([marks.pad])])
        texts = self._texts([marks.text_pad] * (len(codes) - 1) + [marks.text_begin])
        begin = [marks.turn_begin, *self.tokens("assistant\n")]
        return torch.cat([self._texts(self._instruction_tokens(instructions) + begin), codes + texts])

    def text(self, text: str) -> Tensor:
        """(n, dim): the text, and the mark after which codes begin."""
        marks = self._config.marks
        texts = self._texts([*self.tokens(text), marks.text_end, marks.text_pad])
        return texts + self._codes([marks.pad] * (len(texts) - 1) + [marks.begin])

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text; marks in it are plain text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def text_positions(self, text: str) -> int:
        """The length of `text`'s result."""
        return len(self.tokens(text)) + 2

    def speaker(self, code: int) -> Tensor:
        """(1, dim): the embedding of a speaker of the model."""
        return self._codes([code])

    def _instruction_tokens(self, instructions: str) -> list[int]:
        if not instructions:
            return []
        marks = self._config.marks
        return [marks.turn_begin, *self.tokens(f"user\n{instructions}"), marks.turn_end, *self.tokens("\n")]

    def _codes(self, codes: list[int]) -> Tensor:
        return self._networks.codes[torch.tensor(codes, device=self._networks.codes.device)]

    def _texts(self, tokens: list[int]) -> Tensor:
        made: Tensor = self._networks.text(torch.tensor(tokens, device=self._networks.codes.device))
        return made
