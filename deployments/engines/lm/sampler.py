"""Samples the next token of each row with the row's own settings and random numbers.

A row's random number depends only on its seed and the index of its piece, so a stream draws the same tokens in any batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NEVER = -1e9
"""The logit of a forbidden token."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling settings. Temperature 0 takes the likeliest token; `top_k` 0 and `top_p` 1 exclude nothing."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


def uniforms(seed: int, place: int, count: int) -> NDArray[np.float32]:
    """The random numbers of one piece: (count,) in [0, 1), the same for the same seed and index."""
    return np.random.default_rng([seed, place]).random(count, dtype=np.float32)


def choose(logits: Tensor, draws: Tensor, sampling: Sampling) -> Tensor:
    """The next token of each row, (batch,) int64, from (batch, vocabulary) float32 logits.

    `draws` (batch,) are uniform in [0, 1). The candidates are the `top_k` likeliest tokens; of these, from the likeliest on,
    as many as reach a probability of `top_p` together, at least one.
    """
    if sampling.temperature <= 0:
        return logits.argmax(dim=-1)
    vocabulary = logits.shape[-1]
    count = min(sampling.top_k, vocabulary) if sampling.top_k > 0 else vocabulary
    likeliest, tokens = torch.topk(logits / sampling.temperature, count, dim=-1)
    weights = torch.softmax(likeliest, dim=-1)
    before = weights.cumsum(dim=-1) - weights
    weights = torch.where(before <= sampling.top_p, weights, 0.0) if sampling.top_p < 1 else weights
    reached = weights.cumsum(dim=-1)
    # Rounding can leave a draw above the sum; the last candidate takes it.
    place = (reached <= draws[:, None] * reached[:, -1:]).sum(dim=-1, keepdim=True).clamp_max(count - 1)
    return tokens.gather(-1, place)[:, 0]


def forbid(logits: Tensor, token: int, allowed: Tensor) -> Tensor:
    """The logits with `token` forbidden in the rows where `allowed` (batch,) is false."""
    column = torch.arange(logits.shape[-1], device=logits.device) == token
    return torch.where(column[None, :] & ~allowed[:, None], NEVER, logits)


def penalized(logits: Tensor, said: Tensor, penalty: float) -> Tensor:
    """The repetition penalty of CTRL (https://arxiv.org/abs/1909.05858): logits (batch, vocabulary) where `said` is true are
    divided by the penalty, negative ones multiplied."""
    if penalty == 1:
        return logits
    return torch.where(said, torch.where(logits < 0, logits * penalty, logits / penalty), logits)
