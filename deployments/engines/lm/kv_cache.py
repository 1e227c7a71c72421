"""A static key-value cache for many streams, with a position for each.

A stream joins, gets a row, and leaves. The number of its row may change: rows are moved so that the streams of a step are the
first rows, and the step reads their keys and values without a copy.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deployments.errors import fail


@dataclass(eq=False, slots=True)
class Slot:
    """A stream's place in the cache: its current row, and the number of filled positions."""

    row: int
    position: int = 0


class KvCache:
    """Keys and values of up to `slots` streams of up to `capacity` positions.

    `keys[layer]` and `values[layer]` are (slots, heads, capacity + 1, head_dim) tensors that never move. No stream reads the
    last position, `scratch`: unused rows of a padded step write there. On a CPU, only memory that was written to is taken
    from the system.
    """

    def __init__(
        self,
        *,
        layers: int,
        slots: int,
        heads: int,
        capacity: int,
        head_dim: int,
        dtype: torch.dtype,
        device: str = "cpu",
    ) -> None:
        shape = (slots, heads, capacity + 1, head_dim)
        self.capacity = self.scratch = capacity
        self.keys = [_zeros(shape, dtype, device) for _ in range(layers)]
        self.values = [_zeros(shape, dtype, device) for _ in range(layers)]
        self._rows: list[Slot | None] = [None] * slots

    @property
    def free(self) -> int:
        """Streams that still fit."""
        return self._rows.count(None)

    def join(self) -> Slot:
        """A row for a new stream. Raises `MotetError` (overloaded) if none is free."""
        if None not in self._rows:
            raise fail("overloaded", "All slots of the model are in use.", "Try again in a moment.", retry_after_s=1.0)
        row = self._rows.index(None)
        slot = self._rows[row] = Slot(row)
        return slot

    def leave(self, slot: Slot) -> None:
        """Frees the row; safe to call twice."""
        if self._rows[slot.row] is slot:
            self._rows[slot.row] = None

    def arrange(self, slots: Sequence[Slot]) -> None:
        """Moves rows so that `slots` are in rows 0, 1, 2, ... in that order."""
        for row, slot in enumerate(slots):
            if slot.row != row:
                self._swap(row, slot)

    def _swap(self, row: int, slot: Slot) -> None:
        other, left = self._rows[row], slot.row
        filled = max(slot.position, other.position if other else 0)
        for cache in (*self.keys, *self.values):
            moved = cache[left, :, :filled].clone()
            if other is not None:
                cache[left, :, :filled] = cache[row, :, :filled]
            cache[row, :, :filled] = moved
        self._rows[row], self._rows[left] = slot, other
        slot.row = row
        if other is not None:
            other.row = left

    def write(self, slot: Slot, layer: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Writes (heads, n, head_dim) keys and values of a prompt at `start`. The caller advances the position."""
        stop = start + keys.shape[1]
        self.keys[layer][slot.row, :, start:stop] = keys
        self.values[layer][slot.row, :, start:stop] = values


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """Zeros, so that unwritten positions are finite numbers.

    On a CPU they are small pages, each of which takes memory once it is written to. `torch.zeros` takes all of it at once;
    NumPy's zeros are huge pages, and every head of every row would touch its own.
    """
    if device != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


def write_step(cache: Tensor, positions: Tensor, new: Tensor) -> None:
    """Writes one position's (batch, heads, head_dim) into the first rows of a (slots, heads, capacity, head_dim) cache.

    `positions` (batch,) int64 is the position in each row.
    """
    batch = new.shape[0]
    rows = torch.arange(batch, device=new.device)
    cache.index_put_((rows[:, None], _heads(new)[None, :], positions[:, None]), new.to(cache.dtype))


def write_window(cache: Tensor, rows: Tensor, positions: Tensor, new: Tensor) -> None:
    """Writes several positions' (batch, n, heads, head_dim) into a (slots, heads, capacity, head_dim) cache.

    `rows` (batch,) int64 are the rows, and `positions` (batch, n) int64 the positions in each.
    """
    heads = torch.arange(new.shape[2], device=new.device)
    cache.index_put_((rows[:, None, None], heads, positions[:, :, None]), new.to(cache.dtype))


def _heads(new: Tensor) -> Tensor:
    return torch.arange(new.shape[1], device=new.device)


def length_mask(positions: Tensor, length: int) -> Tensor:
    """(batch, 1, 1, length) boolean: a row at position p attends to 0..p, and to nothing that another stream left there."""
    return (torch.arange(length, device=positions.device)[None, :] <= positions[:, None])[:, None, None, :]
