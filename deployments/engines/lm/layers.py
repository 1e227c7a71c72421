"""The two passes over a stack of layers and the slot cache: prompts, packed, and one more position of every row.

A layer is whatever stands on both sides of attention: norms, projections, rotary or learned positions, feed-forward. So
the passes serve any decoder, with as many heads for keys and values as it likes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.engines.lm.linear import in_blocks
from deployments.engines.lm.slots import Slot, SlotCache, length_mask, write_step


class Layer(Protocol):
    """One layer of a decoder, without its attention. Both halves treat every row by itself.

    `places` are tensors with a row for each of x, such as the cosines and sines of rotary positions; a decoder that adds
    its positions to its embeddings has none.
    """

    def attention_input(self, x: Tensor, *places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (n, heads, head_dim), keys and values (n, kv_heads, head_dim) of (n, dim)."""

    def rest(self, x: Tensor, attended: Tensor) -> Tensor:
        """What follows attention: (n, dim) of `x` and of the attended values (n, heads * head_dim)."""


def stack(layers: nn.ModuleList) -> list[Layer]:
    """The modules, as the layers that they are."""
    return cast(list[Layer], list(layers))


def places_of(lengths: Sequence[int]) -> Tensor:
    """(n,) int64: the position of every row of packed prompts, each counted from 0."""
    return torch.cat([torch.arange(length) for length in lengths])


def ends_of(lengths: Sequence[int]) -> Tensor:
    """(streams,) int64: the last row of each packed prompt."""
    return torch.tensor(list(lengths)).cumsum(0) - 1


def prefill(
    layers: Sequence[Layer], x: Tensor, lengths: Sequence[int], slots: Sequence[Slot], cache: SlotCache, *places: Tensor
) -> Tensor:
    """Reads the prompts of fresh slots, packed one after the other without padding; their positions move to the ends.

    `x` is (n, dim), and `lengths` says how many rows each prompt has. Gives (streams, dim) after the last layer, of each
    prompt's end: of that layer no more is worked out than keys and values, and what follows the ends.
    """
    for number, layer in enumerate(layers):
        query, key, value = in_blocks(layer.attention_input, x, *places)
        is_last = number == len(layers) - 1
        parts = []
        for slot, q, k, v in zip(slots, *(part.split(list(lengths)) for part in (query, key, value)), strict=True):
            q, k, v = (part.transpose(0, 1) for part in (q[-1:] if is_last else q, k, v))
            cache.write(slot, number, 0, k, v)
            shared = q.shape[0] != k.shape[0]
            y = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=not is_last, enable_gqa=shared)[0]
            parts.append(y.transpose(0, 1).flatten(1))
        x = x[ends_of(lengths)] if is_last else x
        (x,) = in_blocks(lambda *rows, layer=layer: (layer.rest(*rows),), x, torch.cat(parts))
    for slot, length in zip(slots, lengths, strict=True):
        slot.position = length
    return x


def step(
    layers: Iterable[Layer], x: Tensor, positions: Tensor, cache: SlotCache, length: int, *places: Tensor
) -> Tensor:
    """One more position of the first rows of the cache: (batch, dim) to (batch, dim) after the last layer.

    `positions` (batch,) int64 says where in each row; attention looks at `length` positions at most.
    """
    mask = length_mask(positions, length)
    for number, layer in enumerate(layers):
        query, key, value = layer.attention_input(x, *places)
        x = layer.rest(x, attend(query, key, value, positions, mask, cache.keys[number], cache.values[number]))
    return x


def attend(
    query: Tensor, key: Tensor, value: Tensor, positions: Tensor, mask: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """(batch, heads * head_dim): each row's query over its own past, after its key and value are written there."""
    batch, heads, dim = query.shape
    length = mask.shape[-1]
    write_step(keys, positions, key)
    write_step(values, positions, value)
    # The queries that share keys stand side by side, as if they were a sequence: one product for all of them.
    y = F.scaled_dot_product_attention(
        query.reshape(batch, -1, heads // key.shape[1], dim).to(keys.dtype),
        keys[:batch, :, :length],
        values[:batch, :, :length],
        attn_mask=mask,
    )
    return y.to(query.dtype).reshape(batch, heads * dim)
