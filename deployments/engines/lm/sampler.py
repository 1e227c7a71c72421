"""The choice of the next token, for every row by its own settings and its own random numbers.

A row's draw depends on its seed and its place in the text alone, so a stream says the same in any batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NEVER = -1e9
"""The logit of a token that must not come."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose. Temperature 0 takes the likeliest; `top_k` 0 and `top_p` 1 leave nothing out."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


def uniforms(seed: int, place: int, count: int) -> NDArray[np.float32]:
    """The random numbers of one text: (count,) in [0, 1), the same for the same seed and place."""
    return np.random.default_rng([seed, place]).random(count, dtype=np.float32)


def choose(logits: Tensor, draws: Tensor, sampling: Sampling) -> Tensor:
    """The next token of each row, (batch,) int64, of (batch, vocabulary) float32 logits.

    `draws` (batch,) are uniform in [0, 1). The candidates are the `top_k` likeliest; of these, from the likeliest on, as
    many as reach `top_p` together (always at least one).
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
    # The last candidate catches a draw that rounding has left above the sum.
    place = (reached <= draws[:, None] * reached[:, -1:]).sum(dim=-1, keepdim=True).clamp_max(count - 1)
    return tokens.gather(-1, place)[:, 0]


def forbid(logits: Tensor, token: int, allowed: Tensor) -> Tensor:
    """The logits with `token` ruled out in the rows where `allowed` (batch,) is false."""
    column = torch.arange(logits.shape[-1], device=logits.device) == token
    return torch.where(column[None, :] & ~allowed[:, None], NEVER, logits)
