"""Voxtral: Whisper's encoder before a language model, with Mistral's transcription prompt.

The prompt is built here. transformers' own `apply_transcription_request` needs mistral-common, which does not accept the
numpy of this project, and it writes the audio into a WAV file of 16 bits first. The format is that of mistral-common
1.13, `InstructTokenizerV7.encode_transcription`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, TokenizersBackend, WhisperFeatureExtractor

from deployments.engines.hf_recognition.adapter import FamilyAdapter, Hypothesis, text_tokens
from deployments.engines.hf_recognition.generation import generated
from deployments.engines.protocols import RecognitionOptions, Samples


class VoxtralProcessor(SimpleNamespace):
    """The feature extractor and the tokenizer of a checkpoint; the tokenizer is converted from `tekken.json`."""

    @classmethod
    def from_pretrained(cls, folder: Path, **loading: Any) -> VoxtralProcessor:
        """Reads the files of the checkpoint."""
        extractor = WhisperFeatureExtractor.from_pretrained(folder, **loading)
        return cls(feature_extractor=extractor, tokenizer=mistral_tokenizer(folder, **loading))


def mistral_tokenizer(folder: Path, **loading: Any) -> Any:
    """The tokenizer of a checkpoint, converted from `tekken.json` if it has one."""
    tekken = folder / "tekken.json"
    if tekken.exists():
        return TokenizersBackend(**TokenizersBackend.convert_to_native_format(vocab_file=str(tekken)))
    return TokenizersBackend.from_pretrained(folder, **loading)


class Voxtral(FamilyAdapter):
    """Transcribes in the language of the request, or detects it without saying which. Its transcription prompt has no place
    for a text of the client."""

    samples_tokens = True

    def recognize(self, windows: Sequence[Samples], options: RecognitionOptions) -> list[Hypothesis]:
        """One batch of the encoder and one of the language model. Each window is padded to the encoder's 30 s."""
        inputs = self.on_device(self._inputs(windows, options.language))
        most = [self.options.most_tokens] * len(windows)
        return [
            Hypothesis(
                self.tokenizer.decode([token.id for token in row], skip_special_tokens=True).strip(),
                text_tokens(self.tokenizer, row),
                options.language,
            )
            for row in generated(self.model, inputs, options, most, inputs["input_ids"].shape[1])
        ]

    def _inputs(self, windows: Sequence[Samples], language: str | None) -> BatchFeature:
        """All prompts are equally long, because each window has as many audio tokens."""
        extractor = self.processor.feature_extractor
        audio = np.zeros((len(windows), extractor.n_samples), np.float32)
        for row, window in zip(audio, windows, strict=True):
            row[: len(window)] = window[: extractor.n_samples]
        features = extractor(audio, sampling_rate=self.sample_rate, return_tensors="pt")["input_features"]
        ids = torch.tensor([self.prompt(language)] * len(windows))
        return BatchFeature({"input_features": features, "input_ids": ids, "attention_mask": torch.ones_like(ids)})

    def prompt(self, language: str | None) -> list[int]:
        """The token ids of a transcription request."""
        config = self.model.config.audio_config
        # The projector joins neighbouring frames of the encoder, as many as its input is wide.
        frames = config.max_source_positions * config.hidden_size // config.intermediate_size
        marks = ["<s>", "[INST]", "[BEGIN_AUDIO]", *["[AUDIO]"] * frames, "[/INST]"]
        spoken = self.tokenizer.encode(f"lang:{language}", add_special_tokens=False) if language else []
        to_id = self.tokenizer.convert_tokens_to_ids
        return [*to_id(marks), *spoken, to_id("[TRANSCRIBE]")]
