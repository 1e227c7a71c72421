"""Linear layers in float32, bfloat16, or with eight-bit weights and activations for CPUs.

Eight bits: a weight row has one scale, an activation row has one scale, and products are added up as exact 32-bit
integers. So a row's result does not depend on its batch, which per-tensor schemes cannot promise. It pays where the
processor multiplies bytes (VNNI, AMX), and reads a quarter of the memory that float32 does.

What a processor changes. The integer sums are the same on all of them. The float32 steps around them (sums in another
order, fused rounding) differ in their last bits, and where such a bit decides how a number is rounded to a byte, a step of
1/127 of the row's largest follows. Behind some layers two processors then differ as two roundings of the same numbers do:
each is as far from float32 as eight bits are.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Mapping
from typing import Literal
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Precision = Literal["float32", "int8"]
AnyPrecision = Literal["float32", "bfloat16", "int8"]

BLOCK_ROWS = 128

PACKS = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")
"""Whether oneDNN multiplies packed bytes here."""

MULTIPLIES_BFLOAT16 = torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
"""Whether this CPU has instructions for bfloat16 (AVX512-BF16, AMX)."""


LARGEST = 127
"""Of a signed byte, as weights and activations use it."""


def _sums_bytes_exactly() -> bool:
    """Whether oneDNN adds products of bytes in 32 bits here (VNNI, AMX). Without these instructions it adds two products in
    16 bits, which two large ones overflow: tried with the largest there are."""
    if not PACKS:
        return True
    inputs = 64
    packed = torch.ops.onednn.qlinear_prepack(torch.full((16, inputs), LARGEST, dtype=torch.int8), None)
    scales, zeros = torch.ones(16), torch.zeros(16, dtype=torch.int32)
    sums = _packed_sums(torch.full((1, inputs), 255, dtype=torch.uint8), 128, packed, scales, zeros)
    return bool((sums == inputs * LARGEST * (255 - 128)).all())


def _packed_sums(steps: Tensor, zero: int, packed: Tensor | None, scales: Tensor, zeros: Tensor) -> Tensor:
    """(n, outputs) float32 of (n, inputs) unsigned bytes around `zero`, times the scale of each output."""
    sums: Tensor = torch.ops.onednn.qlinear_pointwise(
        steps, 1.0, zero, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return sums


SUMS_BYTES_EXACTLY = _sums_bytes_exactly()
"""Whether a product of whole bytes is exact here. If not, it is made of two products of half the size, which are."""


class FloatLinear(nn.Module):
    """`x @ weight.T + bias`."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) to (n, outputs)."""
        return F.linear(x, self.weight, self.bias)


class BFloat16Linear(nn.Module):
    """The same with a weight of half the bytes. Rows are rounded for the product alone, and come back as float32.

    A CPU without instructions for it multiplies the rounded numbers in float32, which is the same sum, and keeps them so.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        kept = torch.bfloat16 if MULTIPLIES_BFLOAT16 or weight.device.type != "cpu" else torch.float32
        rounded = weight.to(torch.bfloat16).to(kept).contiguous()
        self.weight = nn.Parameter(rounded, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.to(torch.bfloat16).to(kept), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) float32 or bfloat16 to (n, outputs) float32."""
        return self.rounded(x).float()

    def rounded(self, x: Tensor) -> Tensor:
        """The same in bfloat16."""
        rows = x.to(torch.bfloat16).to(self.weight.dtype)
        return F.linear(rows, self.weight, self.bias).to(torch.bfloat16)


class Int8Linear(nn.Module):
    """The same with a weight of signed bytes.

    Error: each product's factors are off by at most half a step, 1/254 of their row's largest magnitude. On x86 the
    weight is kept in the order in which oneDNN reads it, and `weight` is empty.
    """

    weight: Tensor
    scales: Tensor
    zeros: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        scales = weight.abs().amax(dim=1).clamp_min(1e-12) / 127
        steps = (weight / scales[:, None]).round().to(torch.int8).contiguous()
        self.packed: Tensor | None = torch.ops.onednn.qlinear_prepack(steps, None) if PACKS else None
        self.register_buffer("weight", steps[:0] if PACKS else steps)
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int32))
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.number = next(_NUMBERS)
        _LAYERS[self.number] = self

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) float32 to (n, outputs) float32."""
        scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 127
        steps = (x / scale).round_()
        if self.packed is None:
            y = torch._int_mm(steps.to(torch.int8), self.weight.t()) * self.scales
        else:
            y = self._packed_product(steps)
        return y * scale if self.bias is None else torch.addcmul(self.bias, y, scale)

    def _packed_product(self, steps: Tensor) -> Tensor:
        """(n, outputs) of whole numbers from -127 to 127, which become unsigned ones around 128: processors without AMX
        multiply only those fast."""
        if torch.compiler.is_compiling():
            named: Tensor = torch.ops.motet.packed_product((steps + 128).to(torch.uint8), self.scales, self.number)
            return named
        # torch converts to signed bytes many at a time, to unsigned ones one by one; they differ in their highest bit.
        return _multiplied(steps.to(torch.int8).bitwise_xor_(-128).view(torch.uint8), self)


def _multiplied(steps: Tensor, layer: Int8Linear) -> Tensor:
    if SUMS_BYTES_EXACTLY:
        return _packed_sums(steps, 128, layer.packed, layer.scales, layer.zeros)
    # Two products of at most 128 * 127 are within 16 bits. Whole numbers of float32 are exact, so the sum is that of above.
    half = steps >> 1
    ones = torch.ones_like(layer.scales)
    sums = _packed_sums(torch.cat([half, steps - half]), 64, layer.packed, ones, layer.zeros)
    return sums[: len(steps)].add_(sums[len(steps) :]).mul_(layer.scales)


# Inductor (torch 2.13) multiplies packed weights itself only where it knows them as constants; where a step closes over the
# layer, it fails. So a compiled step knows a layer by its number.
_NUMBERS = itertools.count()
_LAYERS: WeakValueDictionary[int, Int8Linear] = WeakValueDictionary()
_OPERATORS = torch.library.Library("motet", "DEF")
_OPERATORS.define("packed_product(Tensor steps, Tensor scales, int number) -> Tensor")
_OPERATORS.impl("packed_product", lambda steps, _, number: _multiplied(steps, _LAYERS[number]), "CPU")
torch.library.register_fake(
    "motet::packed_product",
    lambda steps, scales, _: steps.new_empty((steps.shape[0], scales.shape[0]), dtype=torch.float32),
    lib=_OPERATORS,
)


def in_blocks(rows_pass: Callable[..., tuple[Tensor, ...]], *rows: Tensor) -> tuple[Tensor, ...]:
    """A pass that treats every row by itself, a block of rows at a time: what it makes on the way stays in the cache, and
    small enough that no memory is asked of the system for it."""
    parts = [rows_pass(*block) for block in zip(*(tensor.split(BLOCK_ROWS) for tensor in rows), strict=True)]
    return parts[0] if len(parts) == 1 else tuple(torch.cat(part) for part in zip(*parts, strict=True))


LAYERS: Mapping[AnyPrecision, Callable[[Tensor, Tensor | None], nn.Module]] = {
    "float32": FloatLinear,
    "bfloat16": BFloat16Linear,
    "int8": Int8Linear,
}


def linear(weight: Tensor, bias: Tensor | None, precision: AnyPrecision) -> nn.Module:
    """A layer of (outputs, inputs) float32 `weight` in the given precision."""
    return LAYERS[precision](weight, bias)


def cache_dtype(precision: AnyPrecision, device: str) -> torch.dtype:
    """What keys and values are kept in. Without matrix units for bfloat16 a CPU attends several times faster in float32,
    and so that a stream sounds the same on every CPU, all of them do."""
    return torch.bfloat16 if precision == "bfloat16" and device != "cpu" else torch.float32
