"""Linear layers in float32, or with eight-bit weights and activations for CPUs.

Eight bits: a weight row has one scale, an activation row has one scale, and products are added up as exact 32-bit
integers. So a row's result does not depend on its batch, which per-tensor schemes cannot promise. Where the processor
multiplies bytes (VNNI, AMX) it takes about a quarter of float32's time and memory traffic.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Precision = Literal["float32", "int8"]


class FloatLinear(nn.Module):
    """`x @ weight.T + bias`."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) to (n, outputs)."""
        return F.linear(x, self.weight, self.bias)


class Int8Linear(nn.Module):
    """The same with a weight of signed bytes.

    Error: each product's factors are off by at most half a step, 1/254 of their row's largest magnitude.
    """

    weight: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        scales = weight.abs().amax(dim=1).clamp_min(1e-12) / 127
        self.register_buffer("weight", (weight / scales[:, None]).round().to(torch.int8).contiguous())
        self.register_buffer("scales", scales)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) float32 to (n, outputs) float32."""
        scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 127
        quantized = (x / scale).round().to(torch.int8)
        y = torch._int_mm(quantized, self.weight.t()) * scale * self.scales
        return y if self.bias is None else y + self.bias


def linear(weight: Tensor, bias: Tensor | None, precision: Precision) -> nn.Module:
    """A layer of (outputs, inputs) float32 `weight` in the given precision."""
    return Int8Linear(weight, bias) if precision == "int8" else FloatLinear(weight, bias)


def cache_dtype(precision: Precision) -> torch.dtype:
    """What keys and values are kept in: half the traffic where weights are small as well."""
    return torch.bfloat16 if precision == "int8" else torch.float32
