"""VibeVoice's prompt: the voices of all speakers, then a script in which each line names its speaker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from deployments.engines.lm.tokenizer import TextTokenizer, plain_text_tokenizer
from deployments.engines.vibevoice.config import VibeVoiceConfig
from deployments.text.speakers import turns

TASK = (
    " Transform the text provided by various speakers into speech output, utilizing the distinct voice of each "
    "respective speaker.\n"
)


class ScriptPrompts:
    """Builds the token ids of prompts. A voice is a run of audio tokens, whose embeddings the caller replaces.

    The tokenizer has no special tokens (`plain_text_tokenizer`), so a client cannot write an audio token.
    """

    def __init__(self, tokenizer: TextTokenizer, config: VibeVoiceConfig) -> None:
        self._tokenizer, self._config = tokenizer, config

    @classmethod
    def read(cls, folder: Path, config: VibeVoiceConfig) -> ScriptPrompts:
        """With the tokenizer from the folder's `tokenizer.json`."""
        return cls(plain_text_tokenizer(folder / "tokenizer.json"), config)

    def prompt(self, text: str, voices: Sequence[int]) -> Tensor:
        """(n,) int64 for a piece of text and the number of frames of each voice, the first for Speaker 1. Each speaker of the
        text needs one. The last token begins the audio."""
        config = self._config
        tokens = self._encode(TASK)
        if voices:
            tokens += self._encode(" Voice input:\n")
        for number, frames in enumerate(voices):
            clip = [config.begin, *[config.audio] * frames, config.end]
            tokens += [*self._encode(f" Speaker {number}:"), *clip, *self._encode("\n")]
        tokens += self._encode(" Text input:\n")
        for turn in turns(text):
            tokens += self._encode(f" Speaker {turn.speaker - 1}: {' '.join(turn.text.split())}\n")
        return torch.tensor([*tokens, *self._encode(" Speech output:\n"), config.begin])

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
