"""Parakeet CTC: one token, or none, for each frame of the encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from deployments.engines.hf_recognition.adapter import EmittedToken, Hypothesis, text_tokens
from deployments.engines.hf_recognition.transducer import Transducer
from deployments.engines.protocols import RecognitionOptions, Samples


class Ctc(Transducer):
    """Greedy decoding. A run of equal tokens is one token, and its time is that of the run."""

    def recognize(self, windows: Sequence[Samples], options: RecognitionOptions) -> list[Hypothesis]:
        """One batch of the encoder. The model has no decoder."""
        inputs = self.on_device(self.processor(list(windows), sampling_rate=self.sample_rate, return_tensors="pt"))
        made = self.model.generate(**inputs, return_dict_in_generate=True)
        best = made.logits.float().log_softmax(dim=-1).amax(dim=-1)
        rows = zip(made.sequences.tolist(), best.tolist(), strict=True)
        return [self._hypothesis(tokens, log_probabilities) for tokens, log_probabilities in rows]

    def _hypothesis(self, tokens: Sequence[int], log_probabilities: Sequence[float]) -> Hypothesis:
        text = self.processor.decode(tokens, skip_special_tokens=True)
        return Hypothesis(text, text_tokens(self.tokenizer, self._runs(tokens, log_probabilities)))

    def _runs(self, tokens: Sequence[int], log_probabilities: Sequence[float]) -> Iterator[EmittedToken]:
        at = 0
        for token, run in groupby(tokens):
            end = at + len(list(run))
            if token != self.model.config.pad_token_id:
                yield EmittedToken(token, max(log_probabilities[at:end]), at * self.frame_s, end * self.frame_s)
            at = end
