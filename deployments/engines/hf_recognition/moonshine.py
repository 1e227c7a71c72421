"""Moonshine: an encoder of the waveform and a small decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.models.moonshine.modeling_moonshine import MoonshineEncoderModelOutput

from deployments.engines.hf_recognition.adapter import FamilyAdapter, Hypothesis, text_tokens
from deployments.engines.hf_recognition.generation import generated
from deployments.engines.protocols import RecognitionOptions, Samples

TOKENS_PER_SECOND = 6.5
"""The limit that the model's card sets, because the model may repeat itself: huggingface.co/UsefulSensors/moonshine-base."""


class Moonshine(FamilyAdapter):
    """Text without times. A checkpoint knows one language."""

    samples_tokens = True

    def recognize(self, windows: Sequence[Samples], options: RecognitionOptions) -> list[Hypothesis]:
        """One batch of the decoder; the encoder runs window by window."""
        encoded = self._encoded(windows)
        inputs = {"encoder_outputs": encoded, "attention_mask": encoded.attention_mask}
        room = min(self.options.most_tokens, self.model.config.max_position_embeddings - 1)
        most = [max(1, min(room, int(len(window) / self.sample_rate * TOKENS_PER_SECOND))) for window in windows]
        return [
            Hypothesis(
                self.processor.decode([token.id for token in row], skip_special_tokens=True).strip(),
                text_tokens(self.tokenizer, row),
            )
            for row in generated(self.model, inputs, options, most, prompt=1)
        ]

    def _encoded(self, windows: Sequence[Samples]) -> MoonshineEncoderModelOutput:
        """The encoder normalises over the whole duration, padding included. In a padded batch the states of a short window
        would depend on the longest."""
        states = [self._states(window) for window in windows]
        mask = pad_sequence([state.new_ones(len(state), dtype=torch.int32) for state in states], batch_first=True)
        return MoonshineEncoderModelOutput(
            last_hidden_state=pad_sequence(states, batch_first=True), attention_mask=mask
        )

    def _states(self, window: Samples) -> torch.Tensor:
        """(frames, dim) of one window."""
        inputs = self.on_device(self.processor(window, sampling_rate=self.sample_rate, return_tensors="pt"))
        states: torch.Tensor = self.model.get_encoder()(inputs["input_values"]).last_hidden_state[0]
        return states
