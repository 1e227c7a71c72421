"""RMS norms and rotary positions, which most decoders use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.engines.lm import transformer
from deployments.engines.lm.kv_cache import KvCache, Slot


def rms_norm(x: Tensor, weight: Tensor | None, eps: float = 1e-6) -> Tensor:
    """Root-mean-square normalisation over the last dimension."""
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def rotary_tables(length: int, dim: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines (length, dim) of rotary positions, in the rotated-halves layout
    (https://arxiv.org/abs/2104.09864)."""
    frequencies = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Applies rotary positions to (..., dim) with matching tables."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


class RotaryStack(nn.Module):
    """Layers with rotary positions: the passes of a decoder over a key-value cache. Embeddings and heads belong to the
    model."""

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        stack: Sequence[transformer.DecoderLayer],
        *,
        kv_heads: int,
        head_dim: int,
        capacity: int,
        base: float = 10_000.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`capacity` is the most positions of a stream, `dtype` that of the cache."""
        super().__init__()
        self.layers, self.capacity = stack, capacity
        self._heads, self._dtype = (kv_heads, head_dim), dtype
        cos, sin = rotary_tables(capacity + 1, head_dim, base)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)

    def new_cache(self, slots: int) -> KvCache:
        """A cache of `slots` rows."""
        heads, head_dim = self._heads
        return KvCache(
            layers=len(self.layers),
            slots=slots,
            heads=heads,
            capacity=self.capacity,
            head_dim=head_dim,
            dtype=self._dtype,
            device=str(self.cos.device),
        )

    def prefill(self, prompts: Sequence[Tensor], slots: Sequence[Slot], cache: KvCache) -> Tensor:
        """Prefills the next parts (n_i, dim) of prompts, packed; gives (streams, dim) at their ends."""
        lengths = [len(prompt) for prompt in prompts]
        places = self._turns(transformer.packed_positions(lengths, [slot.position for slot in slots]))
        return transformer.prefill(self.layers, torch.cat(list(prompts)), lengths, slots, cache, *places)

    def step(self, x: Tensor, positions: Tensor, cache: KvCache, length: int) -> Tensor:
        """One more position of the cache's first rows: (batch, dim) to (batch, dim), attending to `length` positions."""
        return transformer.step(self.layers, x, positions, cache, length, *self._turns(positions))

    def window(self, x: Tensor, rows: Tensor, positions: Tensor, cache: KvCache, length: int) -> Tensor:
        """Several more positions (batch, n) of some `rows` of the cache: (batch, n, dim) to (batch, n, dim)."""
        return transformer.window(self.layers, x, rows, positions, cache, length, *self._turns(positions.flatten()))

    def _turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.cos[positions, None], self.sin[positions, None]
