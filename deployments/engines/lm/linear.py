"""Linear layers in float32, in bfloat16, and with int8 weights and activations for CPUs.

Int8: each weight row and each activation row has one scale, and products are summed as exact 32-bit integers. So a row's
result does not depend on its batch, which per-tensor scales cannot promise. It pays where the processor multiplies int8
(VNNI, AMX), and reads a quarter of the memory of float32.

Differences between processors: the integer sums are equal on all of them. The float32 operations around them (order of
addition, fused rounding) differ in the last bits, and where such a bit decides how a number is rounded to int8, the result
moves by 1/127 of the row's largest number. After some layers two processors differ as two roundings of the same numbers do:
each is as far from float32 as int8 is.

Each precision has two kernels: one with the weight as it is, and one with the weight packed for oneDNN. Which of the
permitted kernels is fastest depends on the processor, the shape and the number of rows. So `linear` asks the current chooser
(`kernel_choice.py`), and without one uses the precision's usual kernel.
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
"""Numbers of rows that a layer is called with, and the weight of each."""

STEP_ROWS: RowCounts = {1: 1.0, 8: 1.0, 128: 0.25}
"""Those of a decoder: one stream, eight streams, and a block of a prompt."""

BLOCK_ROWS = 128
PACKED_FOR_ROWS = 8
"""The number of rows that packed weights are laid out for; they work for any number."""

PACKS = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")
"""Whether oneDNN multiplies packed weights on this processor."""

MULTIPLIES_BFLOAT16 = torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
"""Whether this CPU has instructions for bfloat16 (AVX512-BF16, AMX)."""


LARGEST = 127
"""The largest int8 value of weights and activations."""


def _sums_bytes_exactly() -> bool:
    """Whether oneDNN sums int8 products in 32 bits (VNNI, AMX). Without these instructions it sums pairs of products in 16
    bits, which overflows for large ones; the test uses the largest."""
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
"""Whether the product of full int8 values is exact on this processor. If not, it is computed as two products of half the
values, which are."""


class _PackableLinear(nn.Module):
    """A floating-point layer with its weight as it is, or packed in oneDNN's layout; `weight` is empty then."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, packed: bool) -> None:
        super().__init__()
        self.outputs = weight.shape[0]
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR_ROWS) if packed else None
        self.weight = nn.Parameter(weight[:0] if packed else weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.number = _numbered(self)

    def product(self, rows: Tensor) -> Tensor:
        """(n, inputs) to (n, outputs), both of the weight's dtype."""
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
    """`x @ weight.T + bias` with a bfloat16 weight. Rows are rounded to bfloat16 for the product, and the result is float32.

    A CPU without bfloat16 instructions keeps the rounded weight in float32 and multiplies in float32: the products are the
    same.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, packed: bool = False) -> None:
        kept = torch.bfloat16 if MULTIPLIES_BFLOAT16 or weight.device.type != "cpu" else torch.float32
        rounded_bias = None if bias is None else bias.to(torch.bfloat16).to(kept)
        super().__init__(weight.to(torch.bfloat16).to(kept).contiguous(), rounded_bias, packed=packed)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) float32 or bfloat16 to (n, outputs) float32."""
        return self.rounded(x).float()

    def rounded(self, x: Tensor) -> Tensor:
        """(n, inputs) float32 or bfloat16 to (n, outputs) bfloat16."""
        rows = x.to(torch.bfloat16).to(self.weight.dtype)
        return self.product(rows).to(torch.bfloat16)


class Int8Linear(nn.Module):
    """`x @ weight.T + bias` with int8 weights and activations.

    Error: each factor is off by at most half a step, 1/254 of the largest magnitude in its row. A packed weight is in
    oneDNN's layout, and `weight` is empty. Both kernels give the same bits.
    """

    weight: Tensor
    scales: Tensor
    zeros: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, packed: bool | None = None) -> None:
        """`packed` None packs the weight if oneDNN can."""
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
        """(n, outputs) of whole numbers from -127 to 127, passed as unsigned bytes around 128: without AMX only the product
        of unsigned with signed bytes is fast."""
        if torch.compiler.is_compiling():
            named: Tensor = torch.ops.motet.packed_product((steps + 128).to(torch.uint8), self.scales, self.number)
            return named
        # torch converts to int8 with vector instructions and to uint8 one by one. The two differ in their highest bit.
        return _multiplied(steps.to(torch.int8).bitwise_xor_(-128).view(torch.uint8), self)


def _multiplied(steps: Tensor, layer: Any) -> Tensor:
    """The product of an `Int8Linear`, which a compiled step finds by its number."""
    if SUMS_BYTES_EXACTLY:
        return _packed_sums(steps, 128, layer.packed, layer.scales, layer.zeros)
    # Two products of at most 128 * 127 fit in 16 bits. Whole numbers in float32 are exact, so the sum equals that of the
    # branch above.
    half = steps >> 1
    ones = torch.ones_like(layer.scales)
    sums = _packed_sums(torch.cat([half, steps - half]), 64, layer.packed, ones, layer.zeros)
    return sums[: len(steps)].add_(sums[len(steps) :]).mul_(layer.scales)


def _multiplied_packed(rows: Tensor, layer: nn.Module) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, layer.packed, layer.bias, "none", [], "")
    return product


# Inductor (torch 2.13) multiplies packed weights only if they are constants, and fails if a step closes over the layer. So a
# compiled step finds a layer by its number.
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
    """Applies a row-wise function to blocks of rows: intermediate results stay in the processor's cache, and are small enough
    that the allocator does not ask the system for memory."""
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
    """The kernel of a precision if none is chosen."""
    return "int8-packed" if precision == "int8" and PACKS else precision


def precision_of(kernel: Kernel) -> AnyPrecision:
    """The precision of a kernel's products."""
    return next(precision for precision in PRECISIONS if kernel.removesuffix("-packed") == precision)


def permitted_kernels(precision: AnyPrecision) -> list[Kernel]:
    """The kernels of at least this precision that this processor has."""
    permitted = PRECISIONS[: PRECISIONS.index(precision) + 1]
    return [kernel for kernel in KERNELS if precision_of(kernel) in permitted and _is_available(kernel)]


def _is_available(kernel: Kernel) -> bool:
    if kernel == "int8" and not SUMS_BYTES_EXACTLY:
        return False  # torch's own product of bytes overflows as well, and nothing halves it
    return not kernel.endswith("-packed") or (PACKS and (kernel != "bfloat16-packed" or MULTIPLIES_BFLOAT16))


@dataclass(frozen=True, slots=True)
class LinearSpec:
    """A layer before it is built: its sizes, the least permitted precision, the kernel that it gets if none is chosen, and
    the numbers of rows that it is called with."""

    inputs: int
    outputs: int
    precision: AnyPrecision
    usual: Kernel
    rows: tuple[tuple[int, float], ...]

    @property
    def shape(self) -> str:
        """Inputs and outputs, such as `1024x4096`."""
        return f"{self.inputs}x{self.outputs}"


Chooser = Callable[[LinearSpec], Kernel]
_chooser: ContextVar[Chooser] = ContextVar("chooser", default=lambda spec: spec.usual)


@contextmanager
def choosing_kernels(chooser: Chooser) -> Iterator[None]:
    """Layers that are built inside have the kernels that `chooser` returns."""
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
    """A layer of (outputs, inputs) float32 `weight` in the given precision, or in a more precise one if that is faster.
    `usual` is the precision that the layer has if no kernel is chosen, by default `precision`."""
    outputs, inputs = weight.shape
    spec = LinearSpec(inputs, outputs, precision, usual_kernel(usual or precision), tuple(sorted(rows.items())))
    return KERNELS[_chooser.get()(spec)](weight, bias)


def cache_dtype(precision: AnyPrecision, device: str) -> torch.dtype:
    """The dtype of the key-value cache. A CPU without bfloat16 matrix units attends several times faster in float32; all CPUs
    use it, so that a stream sounds the same on each."""
    return torch.bfloat16 if precision == "bfloat16" and device != "cpu" else torch.float32
