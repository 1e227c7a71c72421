"""Attention and convolution caches of several streams as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

Attention = Sequence[tuple[Tensor, Tensor]]
"""Keys and values (heads, positions, dim) of each layer, of one stream; empty at its start."""


class StackedCache:
    """The keys and values of several streams, padded on the left to the longest. Attention modules of transformers use it as
    their cache, with a mask made of `visible`.

    `window` is the largest number of positions that are kept of each stream.
    """

    def __init__(self, rows: Sequence[Attention], window: int) -> None:
        self._window = window
        self._lengths = [row[0][0].shape[1] if row else 0 for row in rows]
        self.length = max(self._lengths)
        self._layers: list[tuple[Tensor, Tensor]] = []
        if self.length:
            example = next(row for row in rows if row)
            for layer in range(len(example)):
                self._layers.append((self._stacked(rows, layer, 0, example), self._stacked(rows, layer, 1, example)))

    def _stacked(self, rows: Sequence[Attention], layer: int, part: int, example: Attention) -> Tensor:
        """(batch, heads, length, dim)"""
        empty = example[layer][part][:, :0]
        parts = [row[layer][part] if row else empty for row in rows]
        return torch.stack([pad(one, (0, 0, self.length - one.shape[1], 0)) for one in parts])

    def update(self, keys: Tensor, values: Tensor, layer: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends keys and values (batch, heads, n, dim) of new positions, and returns all of the layer."""
        if layer == len(self._layers):
            self._layers.append((keys, values))
        else:
            before = self._layers[layer]
            self._layers[layer] = (torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2))
        return self._layers[layer]

    def visible(self, new: int, device: torch.device) -> Tensor:
        """Bool (batch, length + new): False where a row is padding."""
        lengths = torch.tensor(self._lengths, device=device)
        return torch.arange(self.length + new, device=device) >= self.length - lengths[:, None]

    def causal(self, new: int, like: Tensor) -> Tensor:
        """The mask (batch, 1, new, length + new) of `new` positions that see themselves, those before them within the window,
        and no padding: 0 where visible, else the lowest number. It has the dtype and the device of `like`."""
        distance = torch.arange(new, device=like.device)[:, None] + self.length
        distance = distance - torch.arange(self.length + new, device=like.device)
        seen = (distance >= 0) & (distance <= self._window) & self.visible(new, like.device)[:, None, None]
        return torch.zeros_like(seen, dtype=like.dtype).masked_fill(~seen, torch.finfo(like.dtype).min)

    def rows(self) -> list[Attention]:
        """The keys and values of each stream, with the new positions, as copies: a stream does not keep a batch alive."""
        new = self._layers[0][0].shape[2] - self.length
        kept = [min(length + new, self._window) for length in self._lengths]
        return [
            [(keys[row, :, -count:].clone(), values[row, :, -count:].clone()) for keys, values in self._layers]
            for row, count in enumerate(kept)
        ]


Convolutions = Mapping[str, Tensor]
"""The inputs that a stream's causal convolutions need again, by cache key; empty at its start."""


def stacked_convolutions(cache: Any, rows: Sequence[Convolutions], layer_of: Mapping[str, type[Any]]) -> Any:
    """Fills an empty padding cache of transformers with the inputs of several streams, which are all new or all not.

    `layer_of` is the class of a cache layer, by the first part of its key up to a dot.
    """
    for key in rows[0]:
        layer = layer_of[key.partition(".")[0]]()
        layer.cache = torch.stack([row[key] for row in rows])
        layer.left_pad = layer.cache.shape[2]
        layer.in_channels = layer.cache.shape[1]
        layer.init_pad, layer.is_first_chunk, layer.is_initialized = 0, False, True
        cache.layers[key] = layer
    return cache


def convolution_rows(cache: Any, batch: int) -> list[Convolutions]:
    """The inputs to keep of each stream of a batch, as copies."""
    return [{key: layer.cache[row].clone() for key, layer in cache.layers.items()} for row in range(batch)]
