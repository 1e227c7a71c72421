"""Qwen3-ASR: an audio encoder before a language model, which detects the language unless the prompt names it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad
from transformers import BatchFeature
from transformers.models.qwen3_asr.processing_qwen3_asr import LANGUAGE_CODE_TO_NAME

from deployments.engines.hf_recognition.adapter import EmittedToken, FamilyAdapter, Hypothesis, text_tokens
from deployments.engines.hf_recognition.generation import generated
from deployments.engines.protocols import RecognitionOptions, Samples

TEXT_MARK = "<asr_text>"
CODES = {name: code for code, name in LANGUAGE_CODE_TO_NAME.items()}


class Qwen3Asr(FamilyAdapter):
    """The prompt and the keywords are the system's message of its chat template."""

    prompts = True
    samples_tokens = True

    @property
    def languages(self) -> tuple[str, ...]:
        """Those of the processor."""
        return tuple(LANGUAGE_CODE_TO_NAME)

    def recognize(self, windows: Sequence[Samples], options: RecognitionOptions) -> list[Hypothesis]:
        """One batch of the encoder and one of the language model, with prompts padded on the left."""
        inputs = self.on_device(self._inputs(windows, options))
        most = [self.options.most_tokens] * len(windows)
        rows = generated(self.model, inputs, options, most, inputs["input_ids"].shape[1])
        return [self._hypothesis(row, options.language) for row in rows]

    def _inputs(self, windows: Sequence[Samples], options: RecognitionOptions) -> BatchFeature:
        """Each window is processed alone. The processor would pad the audio before it computes spectrograms, so the last
        frames of a short window would depend on the longest."""
        prompt = self._plain(", ".join(filter(None, [*options.keywords, options.prompt]))) or None
        rows = [
            self.processor.apply_transcription_request(audio=[window], language=options.language, prompt=prompt)
            for window in windows
        ]
        tokens = max(row["input_ids"].shape[1] for row in rows)
        frames = max(row["input_features"].shape[2] for row in rows)
        padding = {"input_ids": self.tokenizer.pad_token_id}
        return BatchFeature(
            {
                **{
                    name: torch.cat([_padded(row[name], tokens, padding.get(name, 0), left=True) for row in rows])
                    for name in ("input_ids", "attention_mask")
                },
                **{
                    name: torch.cat([_padded(row[name], frames) for row in rows])
                    for name in ("input_features", "input_features_mask")
                },
            }
        )

    def _plain(self, text: str) -> str:
        """Without special tokens, with which a client could end the message or claim other audio."""
        for mark in self.tokenizer.get_added_vocab():
            text = text.replace(mark, " ")
        return text

    def _hypothesis(self, row: Sequence[EmittedToken], language: str | None) -> Hypothesis:
        """A model that detects the language writes `language English<asr_text>` before the text."""
        parsed = self.processor.decode([token.id for token in row], return_format="parsed")
        mark = self.tokenizer.convert_tokens_to_ids(TEXT_MARK)
        begin = next((at + 1 for at, token in enumerate(row) if token.id == mark), 0)
        return Hypothesis(
            parsed["transcription"],
            text_tokens(self.tokenizer, row[begin:]),
            language or CODES.get(parsed["language"] or ""),
        )


def _padded(tensor: torch.Tensor, length: int, value: int = 0, *, left: bool = False) -> torch.Tensor:
    """Pads the last dimension to a length."""
    missing = length - tensor.shape[-1]
    return pad(tensor, (missing, 0) if left else (0, missing), value=value)
