"""The passes of a decoder over its key-value cache: prefill of packed prompts, one step of every row, and windows of several
positions of some rows.

A layer gives all but the attention: norms, projections, rotary or learned positions, feed-forward. So the passes work for any
decoder, with any number of heads for keys and values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.engines.lm.kv_cache import KvCache, Slot, length_mask, write_step, write_window
from deployments.engines.lm.linear import in_blocks

PROMPT_BLOCK = 64
"""Positions of a prompt that attend as one block. Blocks begin at multiples of it, so a prompt that is prefilled in parts is
summed in the same order as one that is prefilled at once."""


class DecoderLayer(Protocol):
    """One layer of a decoder, without its attention. Both methods work row by row.

    `places` are tensors with a row for each row of x, such as the cosines and sines of rotary positions; a decoder that adds
    its positions to its embeddings has none.
    """

    def attention_input(self, x: Tensor, *places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (n, heads, head_dim), keys and values (n, kv_heads, head_dim) of (n, dim)."""

    def rest(self, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the layer: (n, dim) from `x` and the attended values (n, heads * head_dim)."""


def stack(layers: nn.ModuleList) -> list[DecoderLayer]:
    """The modules, typed as decoder layers."""
    return cast(list[DecoderLayer], list(layers))


def packed_positions(lengths: Sequence[int], starts: Sequence[int]) -> Tensor:
    """(n,) int64: the position of every row of packed parts of prompts, each of which begins at its start."""
    return torch.cat([torch.arange(start, start + length) for start, length in zip(starts, lengths, strict=True)])


def last_rows(lengths: Sequence[int]) -> Tensor:
    """(streams,) int64: the last row of each packed part."""
    return torch.tensor(list(lengths)).cumsum(0) - 1


def prefill(
    layers: Sequence[DecoderLayer],
    x: Tensor,
    lengths: Sequence[int],
    slots: Sequence[Slot],
    cache: KvCache,
    *places: Tensor,
) -> Tensor:
    """Prefills the next positions of prompts, packed without padding, and advances the slots' positions.

    `x` is (n, dim), and `lengths` gives the rows of each prompt. Each part that is not the last of its prompt must be whole
    blocks of `PROMPT_BLOCK`; then keys, values and results equal those of a prefill at once, to the last bit if a row's
    products do not depend on the number of rows. Returns (streams, dim) after the last layer, at the end of each part: in
    that layer only keys, values and the ends are computed.
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
    """The bounds of the blocks between two positions. Devices other than CPUs take all positions at once: a block costs them
    a kernel launch, and their results are not exact anyway."""
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

    `positions` (batch,) int64 is the position in each row; attention covers at most `length` positions.
    """
    mask = length_mask(positions, length)
    for number, layer in enumerate(layers):
        query, key, value = layer.attention_input(x, *places)
        x = layer.rest(x, attend(query, key, value, positions, mask, cache.keys[number], cache.values[number]))
    return x


def attend(
    query: Tensor, key: Tensor, value: Tensor, positions: Tensor, mask: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """(batch, heads * head_dim): writes each row's key and value, and attends with its query to its own past."""
    batch, heads, dim = query.shape
    length = mask.shape[-1]
    write_step(keys, positions, key)
    write_step(values, positions, value)
    # Queries that share keys are laid out like a sequence, so that one product covers them.
    y = F.scaled_dot_product_attention(
        query.reshape(batch, -1, heads // key.shape[1], dim).to(keys.dtype),
        keys[:batch, :, :length],
        values[:batch, :, :length],
        attn_mask=mask,
    )
    return y.to(query.dtype).reshape(batch, heads * dim)


def window(
    layers: Iterable[DecoderLayer],
    x: Tensor,
    rows: Tensor,
    positions: Tensor,
    cache: KvCache,
    length: int,
    *places: Tensor,
) -> Tensor:
    """Several more positions of some rows of the cache: (batch, n, dim) to (batch, n, dim) after the last layer.

    `rows` (batch,) int64 are rows of the cache, and `positions` (batch, n) int64 the positions in each. A window that has
    fewer than n positions has the scratch position in their place. The shapes are fixed, so this pass can be captured. It
    copies the `length` positions that attention covers at most, of these rows alone.
    """
    batch, count = positions.shape
    mask = (torch.arange(length, device=x.device) <= positions[:, :, None])[:, None]
    x = x.flatten(0, 1)
    for number, layer in enumerate(layers):
        query, key, value = (part.view(batch, count, *part.shape[1:]) for part in layer.attention_input(x, *places))
        keys, values = cache.keys[number], cache.values[number]
        write_window(keys, rows, positions, key)
        write_window(values, rows, positions, value)
        y = F.scaled_dot_product_attention(
            query.transpose(1, 2).to(keys.dtype),
            keys[:, :, :length].index_select(0, rows),
            values[:, :, :length].index_select(0, rows),
            attn_mask=mask,
            enable_gqa=query.shape[2] != key.shape[2],
        )
        x = layer.rest(x, y.to(query.dtype).transpose(1, 2).reshape(batch * count, -1))
    return x.view(batch, count, -1)
