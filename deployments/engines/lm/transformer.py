"""The two passes over a stack of layers and the slot cache: prompts, packed, and one more position of every row.

A layer is whatever stands on both sides of attention: norms, projections, rotary or learned positions, feed-forward. So
the passes serve any decoder, with as many heads for keys and values as it likes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.engines.lm.kv_cache import KvCache, Slot, length_mask, write_step
from deployments.engines.lm.linear import in_blocks

PROMPT_BLOCK = 64
"""Positions of a prompt that attend as one block. Blocks begin at multiples of it, so a prompt that is read in parts is
added up in the same order as one that is read at once."""


class DecoderLayer(Protocol):
    """One layer of a decoder, without its attention. Both halves treat every row by itself.

    `places` are tensors with a row for each of x, such as the cosines and sines of rotary positions; a decoder that adds
    its positions to its embeddings has none.
    """

    def attention_input(self, x: Tensor, *places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (n, heads, head_dim), keys and values (n, kv_heads, head_dim) of (n, dim)."""

    def rest(self, x: Tensor, attended: Tensor) -> Tensor:
        """What follows attention: (n, dim) of `x` and of the attended values (n, heads * head_dim)."""


def stack(layers: nn.ModuleList) -> list[DecoderLayer]:
    """The modules, as the layers that they are."""
    return cast(list[DecoderLayer], list(layers))


def packed_positions(lengths: Sequence[int], starts: Sequence[int]) -> Tensor:
    """(n,) int64: the position of every row of packed parts of prompts, each of which begins at its start."""
    return torch.cat([torch.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)])


def last_rows(lengths: Sequence[int]) -> Tensor:
    """(streams,) int64: the last row of each packed prompt."""
    return torch.tensor(list(lengths)).cumsum(0) - 1


def prefill(
    layers: Sequence[DecoderLayer],
    x: Tensor,
    lengths: Sequence[int],
    slots: Sequence[Slot],
    cache: KvCache,
    *places: Tensor,
) -> Tensor:
    """Reads the next positions of prompts, packed one after the other without padding; the slots' positions move on.

    `x` is (n, dim), and `lengths` says how many rows each prompt has. A part that is not a prompt's last is whole blocks of
    `PROMPT_BLOCK`; then keys, values and ends are those of a prompt that is read at once, bit by bit where a row's products
    do not depend on how many rows there are. Gives (streams, dim) after the last layer, of each part's end: of that layer
    no more is worked out than keys and values, and what follows the ends.
    """
    starts = [slot.position for slot in slots]
    masks: dict[tuple[int, int], Tensor] = {}
    for number, layer in enumerate(layers):
        query, key, value = in_blocks(layer.attention_input, x, *places)
        is_last = number == len(layers) - 1
        parts = []
        for slot, start, *rows in zip(
            slots, starts, *(t.split(list(lengths)) for t in (query, key, value)), strict=True
        ):
            q, k, v = (part.transpose(0, 1) for part in rows)
            cache.write(slot, number, start, k, v)
            keys, values = (kept[number][slot.row : slot.row + 1] for kept in (cache.keys, cache.values))
            stop = start + k.shape[1]
            blocks = [(stop - 1, stop)] if is_last else _blocks(start, stop, x.device.type)
            for first, end in blocks:
                y = _attended(q[:, first - start : end - start], keys[:, :, :end], values[:, :, :end], first, masks)
                parts.append(y.transpose(0, 1).flatten(1))
        x = x[last_rows(lengths)] if is_last else x
        (x,) = in_blocks(lambda *rows, layer=layer: (layer.rest(*rows),), x, torch.cat(parts))
    for slot, length in zip(slots, lengths, strict=True):
        slot.position += length
    return x


def _blocks(start: int, stop: int, device: str) -> Iterator[tuple[int, int]]:
    """Where the blocks between two positions begin and end. Other devices than CPUs take all of it at once: there a block
    costs a launch, and nothing is exact anyway."""
    if device != "cpu":
        yield start, stop
        return
    while start < stop:
        end = min(stop, (start // PROMPT_BLOCK + 1) * PROMPT_BLOCK)
        yield start, end
        start = end


def _attended(query: Tensor, keys: Tensor, values: Tensor, first: int, masks: dict[tuple[int, int], Tensor]) -> Tensor:
    """(heads, n, head_dim) of queries from position `first` on, over (1, kv_heads, first + n, head_dim) of the cache."""
    count, end = query.shape[1], keys.shape[2]
    mask = None
    if first and count > 1:
        mask = masks.get((first, end))
        if mask is None:
            mask = masks[first, end] = torch.ones(count, end, dtype=torch.bool, device=query.device).tril(first)
    shared = query.shape[0] != keys.shape[1]
    y = F.scaled_dot_product_attention(
        query[None].to(keys.dtype), keys, values, mask, is_causal=first == 0 and count > 1, enable_gqa=shared
    )
    return y[0].to(query.dtype)


def step(
    layers: Iterable[DecoderLayer], x: Tensor, positions: Tensor, cache: KvCache, length: int, *places: Tensor
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
