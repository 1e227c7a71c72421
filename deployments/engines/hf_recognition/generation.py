"""Token by token: transformers' `generate` for families with a language decoder, with the log-probability of each token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from deployments.engines.hf_recognition.adapter import EmittedToken
from deployments.engines.protocols import RecognitionOptions


class ChosenLogProbabilities(LogitsProcessor):  # type: ignore[misc]  # its class is Any to the type check
    """Records the log-probability of each chosen token. `output_scores` of `generate` would keep the scores of the whole
    vocabulary for all steps: 4.3 GB for 16 windows of 448 tokens of 150,000.

    Logits from `vocabulary` on are no tokens: a TDT's joint network appends those of durations. They are set to -inf.
    """

    def __init__(self, vocabulary: int | None = None) -> None:
        self._vocabulary, self._chosen = vocabulary, list[Tensor]()
        self._before: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Takes the tokens so far (batch, n) and the logits of the next (batch, vocabulary)."""
        self._take(input_ids[:, -1])
        if self._vocabulary is not None:
            scores[:, self._vocabulary :] = -torch.inf
        self._before = scores.log_softmax(dim=-1)
        return scores

    def _take(self, tokens: Tensor) -> None:
        if self._before is not None:
            self._chosen.append(self._before.gather(1, tokens[:, None].to(self._before.device))[:, 0])

    def of(self, sequences: Tensor) -> Tensor:
        """(batch, steps) of the generated tokens, the last of which are those of `sequences` (batch, n)."""
        self._take(sequences[:, -1])
        return torch.stack(self._chosen, dim=1)


def generated(
    model: Any, inputs: Mapping[str, Any], options: RecognitionOptions, most: Sequence[int], prompt: int
) -> list[list[EmittedToken]]:
    """The tokens that the model appends to each prompt of `prompt` tokens, without the end token.

    Row i has at most `most[i]` tokens. The largest limit counts for the whole batch, and a row is cut at its own, so that it
    does not depend on its neighbours.
    """
    recorder = ChosenLogProbabilities()
    drawn = {"do_sample": True, "temperature": options.temperature, "top_k": 0} if options.temperature else {}
    if drawn:
        torch.manual_seed(0)  # the same window gives the same words
    sequences = model.generate(
        **inputs,
        **({"do_sample": False} | drawn),
        num_beams=1,
        max_new_tokens=max(most),
        logits_processor=LogitsProcessorList([recorder]),
    )
    log_probabilities = recorder.of(sequences).tolist()
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, Sequence) else [ends])
    return [
        _until_end(row[:limit], chances, ends)
        for row, chances, limit in zip(sequences[:, prompt:].tolist(), log_probabilities, most, strict=True)
    ]


def _until_end(tokens: Sequence[int], log_probabilities: Sequence[float], ends: set[int]) -> list[EmittedToken]:
    kept: list[EmittedToken] = []
    for token, log_probability in zip(tokens, log_probabilities, strict=False):
        if token in ends:
            break
        kept.append(EmittedToken(token, log_probability))
    return kept
