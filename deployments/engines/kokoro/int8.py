"""Int8 convolutions for x86 CPUs: three to four times as fast, with the precision of the int8 export.

Weights have one scale for each channel. Activations have one scale for each row, computed at run time, so a row sounds the
same in every batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from deployments.engines.kokoro.ragged import Conv
from deployments.engines.kokoro.vocoder import SnakeBlock
from deployments.engines.lm.linear import SUMS_BYTES_EXACTLY
from deployments.errors import fail

ZERO = 128


class Int8Conv(nn.Module):
    """An int8 version of a `Conv` without stride, accurate to about one per cent."""

    def __init__(self, conv: Conv) -> None:
        super().__init__()
        weight = conv.weight.detach()
        self._scales = weight.abs().amax(dim=(1, 2, 3)).clamp(min=1e-8) / 127
        self._half = torch.tensor(ZERO + 0.5)  # what is cut off after it was added is rounded
        self._ones = torch.ones(len(weight))
        self._zeros = torch.zeros(len(weight), dtype=torch.int32)
        self._bias = conv.bias.detach() if conv.bias is not None else None
        self._dilation, self._padding = conv.dilation, weight.shape[-1] // 2
        levels = torch.round(weight / self._scales[:, None, None, None]).to(torch.int8)
        scales, zero = (self._scales, ZERO) if SUMS_BYTES_EXACTLY else (self._ones, ZERO // 2)
        self._packed = self._prepacked(levels, scales, zero)

    def _prepacked(self, levels: Tensor, scales: Tensor, zero: int) -> Tensor:
        padding = [0, self._padding]
        packed: Tensor = torch.ops.onednn.qconv_prepack(levels, scales, 1.0, zero, [1, 1], padding, [1, 1], 1, None)
        return packed

    def forward(self, x: Tensor) -> Tensor:
        """(rows, width, channels) to the same width; overwrites its input."""
        rows = [self._row(x[row : row + 1]) for row in range(len(x))]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _row(self, x: Tensor) -> Tensor:
        low, high = torch.aminmax(x)
        scale = max(-float(low), float(high), 1e-8) / 127
        levels = torch.add(self._half, x, alpha=1 / scale, out=x).to(torch.uint8)
        # A dilated convolution equals several plain ones over every second, third, ... value, which are twice as fast.
        width, phases = x.shape[1], self._dilation
        if phases > 1:
            levels = functional.pad(levels, (0, 0, 0, -width % phases), value=ZERO)
            levels = levels.view(-1, phases, x.shape[2]).transpose(0, 1).contiguous()
        y = self._convolved(levels.transpose(1, 2).unsqueeze(2), scale)
        if phases == 1:
            return y.squeeze(2).transpose(1, 2)
        return y.squeeze(2).permute(2, 0, 1).reshape(1, -1, y.shape[1])[:, :width]

    def _convolved(self, levels: Tensor, scale: float) -> Tensor:
        """(rows, channels, 1, width) of bytes around `ZERO`, multiplied as in `lm/linear.py`."""
        if SUMS_BYTES_EXACTLY:
            return self._sums(levels, scale, ZERO, self._scales, self._bias)
        half = levels >> 1
        sums = self._sums(torch.cat([half, levels - half]), 1.0, ZERO // 2, self._ones, None)
        y = (sums[: len(levels)] + sums[len(levels) :]) * (scale * self._scales)[:, None, None]
        return y if self._bias is None else y + self._bias[:, None, None]

    def _sums(self, levels: Tensor, scale: float, zero: int, scales: Tensor, bias: Tensor | None) -> Tensor:
        sums: Tensor = torch.ops.onednn.qconv2d_pointwise(
            levels, scale, zero, self._packed, scales, self._zeros, bias,
            [1, 1], [0, self._padding], [1, 1], 1, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return sums


def with_int8_convolutions(model: nn.Module) -> None:
    """Replaces the vocoder's most expensive convolutions. Raises `MotetError` (unsupported) if the CPU has no int8
    convolutions."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        raise fail("unsupported", "Int8 convolutions need an x86 CPU.", "Set the option precision: float32.")
    for block in model.modules():
        if isinstance(block, SnakeBlock):
            for convs in (block.convs1, block.convs2):
                for number, conv in enumerate(convs):
                    assert isinstance(conv, Conv)
                    convs[number] = Int8Conv(conv)
