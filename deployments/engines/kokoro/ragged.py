"""Rows of different lengths in one padded tensor, such that each row gives the same result as alone.

Tensors are (rows, width, channels). The invariant: after a row's end a tensor is zero. So convolutions see the padding that a
single row has, sums over time need no mask, and only operations that add a constant (a bias, the shift of a norm) need a
`clear` after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class RaggedRows:
    """The lengths (rows,) of rows padded to `width`. `mask` (rows, width, 1) is None if all rows are full."""

    lengths: Tensor
    width: int
    mask: Tensor | None

    @classmethod
    def of(cls, lengths: Tensor) -> RaggedRows:
        """Rows padded to the longest."""
        width = int(lengths.max())
        full = bool((lengths == width).all())
        return cls(lengths, width, None if full else _mask(lengths, width))

    def resized(self, factor: int, more: int = 0) -> RaggedRows:
        """The rows after an operation that makes each `factor` times as long, plus `more`."""
        lengths, width = self.lengths * factor + more, self.width * factor + more
        return RaggedRows(lengths, width, None if self.mask is None else _mask(lengths, width))

    def clear(self, x: Tensor) -> Tensor:
        """Zeros after each row's end; may overwrite `x`."""
        return x if self.mask is None else x.mul_(self.mask)

    def reversed_rows(self, x: Tensor) -> Tensor:
        """Each row reversed within its own length; what follows its end stays."""
        if self.mask is None:
            return x.flip(1)
        positions = torch.arange(self.width, device=x.device)
        mirrored = self.lengths[:, None] - 1 - positions
        order = torch.where(mirrored < 0, positions, mirrored)
        return x.gather(1, order.unsqueeze(-1).expand_as(x))

    def centred(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`x` minus its mean over each row's own length, and its variance there (rows, 1, channels)."""
        lengths = self.lengths.to(x.dtype)[:, None, None]
        centred = self.clear(x - x.sum(dim=1, keepdim=True) / lengths)
        return centred, centred.square().sum(dim=1, keepdim=True) / lengths


def _mask(lengths: Tensor, width: int) -> Tensor:
    return (torch.arange(width, device=lengths.device) < lengths[:, None]).unsqueeze(-1).float()


def groups(lengths: Sequence[int], most_padding: float) -> list[list[int]]:
    """Groups of row indices, the longest rows first, in which at most this share is padding."""
    found: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        group = found[-1] if found else []
        padded = lengths[group[0]] * (len(group) + 1) if group else 0
        if group and padded - sum(lengths[r] for r in (*group, row)) <= most_padding * padded:
            group.append(row)
        else:
            found.append([row])
    return found


class Conv(nn.Module):
    """A convolution over time, computed in two dimensions with channels last, which is nearly twice as fast on a CPU."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, dilation: int = 1, stride: int = 1,
        padding: int | None = None, bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels_out, channels_in, 1, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out)) if bias else None
        self.dilation, self._stride = dilation, stride
        self._padding = dilation * (kernel - 1) // 2 if padding is None else padding

    def forward(self, x: Tensor) -> Tensor:
        """(rows, width, channels); the width changes only with `stride` and `padding`."""
        flat = x.transpose(1, 2).unsqueeze(2)
        y = functional.conv2d(flat, self.weight, self.bias, (1, self._stride), (0, self._padding), (1, self.dilation))
        return y.squeeze(2).transpose(1, 2)


class UpConv(nn.Module):
    """A transposed convolution over time that makes rows `rate` times as long."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, rate: int, groups: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels_in, channels_out // groups, 1, kernel))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self._rate, self._groups = rate, groups
        self._padding = (kernel - rate + 1) // 2
        self._more = rate - kernel + 2 * self._padding

    def forward(self, x: Tensor) -> Tensor:
        """(rows, width, channels) to (rows, rate * width, channels)."""
        flat = x.transpose(1, 2).unsqueeze(2)
        y = functional.conv_transpose2d(
            flat, self.weight, self.bias, (1, self._rate), (0, self._padding), (0, self._more), self._groups
        )
        return y.squeeze(2).transpose(1, 2)


class BiLstm(nn.Module):
    """A bidirectional LSTM: (rows, width, channels).

    It has one network for each direction; the backward one gets each row reversed within its own length. Packed sequences
    would also work, but the library computes them differently from full rows, and rounds differently.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.onward = nn.LSTM(channels_in, channels_out // 2, batch_first=True)
        self.backward = nn.LSTM(channels_in, channels_out // 2, batch_first=True)

    def forward(self, x: Tensor, rows: RaggedRows) -> Tensor:
        """(rows, width, channels), zero after each row's end."""
        turned = rows.reversed_rows(self.backward(rows.reversed_rows(x))[0])
        return rows.clear(torch.cat([self.onward(x)[0], turned], dim=-1))
