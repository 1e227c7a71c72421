"""Canary: a FastConformer encoder and a decoder whose prompt names the languages of the speech and of the text."""

from __future__ import annotations

from collections.abc import Sequence

from transformers.models.canary.processing_canary import LANGUAGE_CODE_TO_NAME

from deployments.engines.hf_recognition.adapter import FamilyAdapter, Hypothesis, text_tokens
from deployments.engines.hf_recognition.generation import generated
from deployments.engines.protocols import RecognitionOptions, Samples


class Canary(FamilyAdapter):
    """Transcribes, and translates into English. It does not detect the language: if a request names none, it is the first of
    the option `languages`, else English."""

    translates = True
    samples_tokens = True

    @property
    def languages(self) -> tuple[str, ...]:
        """Those of the option, else all of Canary 1B v2."""
        return self.options.languages or tuple(LANGUAGE_CODE_TO_NAME)

    def recognize(self, windows: Sequence[Samples], options: RecognitionOptions) -> list[Hypothesis]:
        """One batch of the encoder and one of the decoder."""
        language = options.language or next(iter(self.options.languages), "en")
        inputs = self.on_device(
            self.processor.apply_transcription_request(
                audio=list(windows),
                source_language=language,
                target_language="en" if options.translate else language,
            )
        )
        prompt = inputs["decoder_input_ids"].shape[1]
        room = self.model.config.decoder_config.max_position_embeddings - prompt
        most = [min(self.options.most_tokens, room)] * len(windows)
        return [
            Hypothesis(
                self.processor.decode([token.id for token in row], skip_special_tokens=True).strip(),
                text_tokens(self.tokenizer, row),
                language,
            )
            for row in generated(self.model, inputs, options, most, prompt)
        ]
