"""Linear layers in float32, bfloat16, or with eight-bit weights and activations for CPUs.

Eight bits: a weight row has one scale, an activation row has one scale, and products are added up as exact 32-bit
integers. So a row's result does not depend on its batch, which per-tensor schemes cannot promise. It pays where the
processor multiplies bytes (VNNI, AMX), and reads a quarter of the memory that float32 does.

What a processor changes. The integer sums are the same on all of them. The float32 steps around them (sums in another
order, fused rounding) differ in their last bits, and where such a bit decides how a number is rounded to a byte, a step of
1/127 of the row's largest follows. Behind some layers two processors then differ as two roundings of the same numbers do:
each is as far from float32 as eight bits are.
Each kind of number has two kernels: one that takes the weight as it is, and one that packs it for oneDNN beforehand. Which of
those that a precision permits is fastest depends on the processor, the shape and the number of rows. So `linear` asks the
chooser in force (`kernel_choice.py`), and without one takes the precision's usual kernel.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Precision = Literal["float32", "int8"]
AnyPrecision = Literal["float32", "bfloat16", "int8"]
Kernel = Literal["float32", "float32-packed", "bfloat16", "bfloat16-packed", "int8", "int8-packed"]
RowCounts = Mapping[int, float]
"""How many rows a layer is given at a time, and how much each of these counts."""

STEP_ROWS: RowCounts = {1: 1.0, 8: 1.0, 128: 0.25}
"""A decoder's: one stream, eight, and a block of a prompt."""

BLOCK_ROWS = 128
PACKED_FOR_ROWS = 8
"""What packed weights are laid out for; they serve any number of rows."""

PACKS = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")
"""Whether oneDNN multiplies packed weights here."""

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


class _PackableLinear(nn.Module):
    """A floating-point layer whose weight stays as it is, or is kept in oneDNN's order; `weight` is empty then."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, packed: bool) -> None:
        super().__init__()
        self.outputs = weight.shape[0]
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR_ROWS) if packed else None
        self.weight = nn.Parameter(weight[:0] if packed else weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.number = _numbered(self)

    def product(self, rows: Tensor) -> Tensor:
        """(n, inputs) to (n, outputs), both of the weight's type."""
        if self.packed is None:
            return F.linear(rows, self.weight, self.bias)
        if torch.compiler.is_compiling():
            named: Tensor = torch.ops.motet.packed_linear(rows, self.outputs, self.number)
            return named
        return _multiplied_packed(rows, self)


class FloatLinear(_PackableLinear):
    """`x @ weight.T + bias`."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, packed: bool = False) -> None:
        super().__init__(weight.contiguous(), bias, packed=packed)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) to (n, outputs)."""
        return self.product(x.to(self.weight.dtype))


class BFloat16Linear(_PackableLinear):
    """The same with a weight of half the bytes. RowCounts are rounded for the product alone, and come back as float32.

    A CPU without instructions for it multiplies the rounded numbers in float32, which is the same sum, and keeps them so.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, packed: bool = False) -> None:
        kept = torch.bfloat16 if MULTIPLIES_BFLOAT16 or weight.device.type != "cpu" else torch.float32
        rounded_bias = None if bias is None else bias.to(torch.bfloat16).to(kept)
        super().__init__(weight.to(torch.bfloat16).to(kept).contiguous(), rounded_bias, packed=packed)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) float32 or bfloat16 to (n, outputs) float32."""
        return self.rounded(x).float()

    def rounded(self, x: Tensor) -> Tensor:
        """The same in bfloat16."""
        rows = x.to(torch.bfloat16).to(self.weight.dtype)
        return self.product(rows).to(torch.bfloat16)


class Int8Linear(nn.Module):
    """The same with a weight of signed bytes.

    Error: each product's factors are off by at most half a step, 1/254 of their row's largest magnitude. A packed weight is
    kept in the order in which oneDNN reads it, and `weight` is empty. Both kernels give the same bits.
    """

    weight: Tensor
    scales: Tensor
    zeros: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, packed: bool | None = None) -> None:
        """Packed where oneDNN packs, unless told."""
        super().__init__()
        packs = PACKS if packed is None else packed
        scales = weight.abs().amax(dim=1).clamp_min(1e-12) / 127
        steps = (weight / scales[:, None]).round().to(torch.int8).contiguous()
        self.packed: Tensor | None = torch.ops.onednn.qlinear_prepack(steps, None) if packs else None
        self.register_buffer("weight", steps[:0] if packs else steps)
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int32))
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.number = _numbered(self)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) float32 or bfloat16 to (n, outputs) float32."""
        x = x.float()
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


def _multiplied(steps: Tensor, layer: Any) -> Tensor:
    """The product of an `Int8Linear`, which a compiled step knows by its number only."""
    if SUMS_BYTES_EXACTLY:
        return _packed_sums(steps, 128, layer.packed, layer.scales, layer.zeros)
    # Two products of at most 128 * 127 are within 16 bits. Whole numbers of float32 are exact, so the sum is that of above.
    half = steps >> 1
    ones = torch.ones_like(layer.scales)
    sums = _packed_sums(torch.cat([half, steps - half]), 64, layer.packed, ones, layer.zeros)
    return sums[: len(steps)].add_(sums[len(steps) :]).mul_(layer.scales)


def _multiplied_packed(rows: Tensor, layer: nn.Module) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, layer.packed, layer.bias, "none", [], "")
    return product


# Inductor (torch 2.13) multiplies packed weights itself only where it knows them as constants; where a step closes over the
# layer, it fails. So a compiled step knows a layer by its number.
_NUMBERS = itertools.count()
_LAYERS: WeakValueDictionary[int, nn.Module] = WeakValueDictionary()
_OPERATORS = torch.library.Library("motet", "DEF")
_OPERATORS.define("packed_product(Tensor steps, Tensor scales, int number) -> Tensor")
_OPERATORS.impl("packed_product", lambda steps, _, number: _multiplied(steps, _LAYERS[number]), "CPU")
torch.library.register_fake(
    "motet::packed_product",
    lambda steps, scales, _: steps.new_empty((steps.shape[0], scales.shape[0]), dtype=torch.float32),
    lib=_OPERATORS,
)
_OPERATORS.define("packed_linear(Tensor rows, int outputs, int number) -> Tensor")
_OPERATORS.impl("packed_linear", lambda rows, _, number: _multiplied_packed(rows, _LAYERS[number]), "CPU")
torch.library.register_fake(
    "motet::packed_linear", lambda rows, outputs, _: rows.new_empty((rows.shape[0], outputs)), lib=_OPERATORS
)


def _numbered(layer: nn.Module) -> int:
    number = next(_NUMBERS)
    _LAYERS[number] = layer
    return number


def in_blocks(rows_pass: Callable[..., tuple[Tensor, ...]], *rows: Tensor) -> tuple[Tensor, ...]:
    """A pass that treats every row by itself, a block of rows at a time: what it makes on the way stays in the cache, and
    small enough that no memory is asked of the system for it."""
    parts = [rows_pass(*block) for block in zip(*(tensor.split(BLOCK_ROWS) for tensor in rows), strict=True)]
    return parts[0] if len(parts) == 1 else tuple(torch.cat(part) for part in zip(*parts, strict=True))


KERNELS: Mapping[Kernel, Callable[[Tensor, Tensor | None], nn.Module]] = {
    "float32": FloatLinear,
    "float32-packed": partial(FloatLinear, packed=True),
    "bfloat16": BFloat16Linear,
    "bfloat16-packed": partial(BFloat16Linear, packed=True),
    "int8": partial(Int8Linear, packed=False),
    "int8-packed": partial(Int8Linear, packed=True),
}
PRECISIONS: tuple[AnyPrecision, ...] = ("float32", "bfloat16", "int8")
"""From the most precise to the least."""


def usual_kernel(precision: AnyPrecision) -> Kernel:
    """The kernel of a precision where none is chosen."""
    return "int8-packed" if precision == "int8" and PACKS else precision


def precision_of(kernel: Kernel) -> AnyPrecision:
    """The kind of numbers that a kernel multiplies."""
    return next(precision for precision in PRECISIONS if kernel.removesuffix("-packed") == precision)


def permitted_kernels(precision: AnyPrecision) -> list[Kernel]:
    """The kernels of this processor that are at least as precise."""
    permitted = PRECISIONS[: PRECISIONS.index(precision) + 1]
    return [kernel for kernel in KERNELS if precision_of(kernel) in permitted and _is_available(kernel)]


def _is_available(kernel: Kernel) -> bool:
    if kernel == "int8" and not SUMS_BYTES_EXACTLY:
        return False  # torch's own product of bytes overflows as well, and nothing halves it
    return not kernel.endswith("-packed") or (PACKS and (kernel != "bfloat16-packed" or MULTIPLIES_BFLOAT16))


@dataclass(frozen=True, slots=True)
class LinearSpec:
    """What is known of a layer before it is made: its sizes, the least precise numbers that are permitted, the kernel that it
    has unless another is chosen, and the numbers of rows that it is used with."""

    inputs: int
    outputs: int
    precision: AnyPrecision
    usual: Kernel
    rows: tuple[tuple[int, float], ...]

    @property
    def shape(self) -> str:
        """Such as `1024x4096`, inputs and outputs."""
        return f"{self.inputs}x{self.outputs}"


Chooser = Callable[[LinearSpec], Kernel]
_chooser: ContextVar[Chooser] = ContextVar("chooser", default=lambda spec: spec.usual)


@contextmanager
def choosing_kernels(chooser: Chooser) -> Iterator[None]:
    """Layers that are made inside have the kernels that `chooser` names."""
    token = _chooser.set(chooser)
    try:
        yield
    finally:
        _chooser.reset(token)


def linear(
    weight: Tensor,
    bias: Tensor | None,
    precision: AnyPrecision,
    *,
    rows: RowCounts = STEP_ROWS,
    usual: AnyPrecision | None = None,
) -> nn.Module:
    """A layer of (outputs, inputs) float32 `weight` with numbers of the given precision, or more precise ones where these are
    faster. `usual` is the precision that it has unless another is chosen, by default the permitted one."""
    outputs, inputs = weight.shape
    spec = LinearSpec(inputs, outputs, precision, usual_kernel(usual or precision), tuple(sorted(rows.items())))
    return KERNELS[_chooser.get()(spec)](weight, bias)


def cache_dtype(precision: AnyPrecision, device: str) -> torch.dtype:
    """What keys and values are kept in. Without matrix units for bfloat16 a CPU attends several times faster in float32,
    and so that a stream sounds the same on every CPU, all of them do."""
    return torch.bfloat16 if precision == "bfloat16" and device != "cpu" else torch.float32
