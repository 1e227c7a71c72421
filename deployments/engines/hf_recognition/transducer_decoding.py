"""Greedy RNN-T decoding of encoder frames, for several streams as one batch.

As transformers' `ParakeetRNNTGenerationMixin`: the frame advances on a blank, or after `max_symbols_per_step` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.models.parakeet.generation_parakeet import ParakeetRNNTDecoderCache


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction network of one stream: its output (1, dim) for the last token, and its LSTM's state (layers, dim)."""

    output: Tensor
    hidden: Tensor
    cell: Tensor


@dataclass(frozen=True, slots=True)
class FrameToken:
    """A token that is not blank, and the frame at which it was emitted."""

    id: int
    log_probability: float
    frame: int


def first_prediction(model: Any) -> Prediction:
    """The prediction before the first token: that after a blank."""
    cache = ParakeetRNNTDecoderCache(model.config)
    model.decoder(torch.tensor([[model.config.blank_token_id]], device=model.device), cache=cache)
    return _rows(cache, 1)[0]


def decoded(
    model: Any, frames: Tensor, predictions: Sequence[Prediction]
) -> tuple[list[list[FrameToken]], list[Prediction]]:
    """The tokens of encoder frames (batch, n, dim) of each stream, and its prediction after them."""
    cache = _stacked(model, predictions)
    blank, rows = model.config.blank_token_id, range(len(predictions))
    emitted: list[list[FrameToken]] = [[] for _ in rows]
    at, symbols = [0 for _ in rows], [0 for _ in rows]
    while min(at) < frames.shape[1]:
        current = frames[list(rows), [min(frame, frames.shape[1] - 1) for frame in at]]
        chosen, log_probabilities = _best(model, current, cache.cache)
        for row in rows:
            if at[row] == frames.shape[1]:
                chosen[row] = blank
            elif chosen[row] == blank:
                at[row], symbols[row] = at[row] + 1, 0
            else:
                emitted[row].append(FrameToken(chosen[row], log_probabilities[row], at[row]))
                symbols[row] += 1
                if symbols[row] == model.config.max_symbols_per_step:
                    at[row], symbols[row] = at[row] + 1, 0
        model.decoder(torch.tensor(chosen, device=model.device)[:, None], cache=cache)
    return emitted, _rows(cache, len(predictions))


def _best(model: Any, frames: Tensor, outputs: Tensor | None) -> tuple[list[int], list[float]]:
    """The likeliest token of each row, of a frame (batch, dim) and an output of the prediction network (batch, 1, dim)."""
    assert outputs is not None
    logits = model.joint(encoder_hidden_states=frames[:, None, None], decoder_hidden_states=outputs[:, None])[:, 0, 0]
    best = logits.float().log_softmax(dim=-1).max(dim=-1)
    return best.indices.tolist(), best.values.tolist()


def _stacked(model: Any, predictions: Sequence[Prediction]) -> ParakeetRNNTDecoderCache:
    cache = ParakeetRNNTDecoderCache(model.config)
    cache.cache = torch.stack([prediction.output for prediction in predictions])
    cache.hidden_state = torch.stack([prediction.hidden for prediction in predictions], dim=1)
    cache.cell_state = torch.stack([prediction.cell for prediction in predictions], dim=1)
    cache.is_initialized = True
    return cache


def _rows(cache: ParakeetRNNTDecoderCache, batch: int) -> list[Prediction]:
    assert cache.cache is not None and cache.hidden_state is not None and cache.cell_state is not None
    return [
        Prediction(cache.cache[row].clone(), cache.hidden_state[:, row].clone(), cache.cell_state[:, row].clone())
        for row in range(batch)
    ]
