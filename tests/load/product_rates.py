"""The least time for an engine's matrix products on this processor: a bound of its speed.

The products that torch carries out while the engine runs are counted by their sizes. Each size is then measured by itself,
with every kernel, on as many threads: the fastest one's time counts. Weights of few rows come from memory, as they do in a
model that is larger than the caches. The limit leaves out everything that is not a product: norms, activations, rotary
positions, sampling, the inverse Fourier transform, copies, and Python.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from deployments.engines.lm import linear
from deployments.engines.lm.kernel_timing import HOPELESS, clock_here, random_rows
from deployments.engines.lm.linear import KERNELS, permitted_kernels

INT8 = "onednn::qlinear_pointwise"
BY_WEIGHTS: Mapping[str, int] = {
    "aten::mm": 0,
    "aten::addmm": 1,
    "aten::linear": 0,
    "aten::_int_mm": 0,
    INT8: 0,
    "mkldnn::_linear_pointwise": 0,
}
"""Products of rows by a weight; which argument the rows are."""
CONVOLUTIONS = ("aten::convolution", "aten::mkldnn_convolution")
BATCHED = ("aten::bmm", "aten::baddbmm")
ATTENTION = ("aten::_scaled_dot_product_flash_attention_for_cpu",)
ROUNDS = 3
FEW_ROWS = 16
GRAIN = 32
POSITIONS_GRAIN = 128
EVICTED_BYTES = 64 << 20

Sizes = tuple[str | int, ...]


@dataclass(slots=True)
class ProductCount:
    """Operations (multiplications and additions) by size of product, and how to carry out one of those that are not by
    weights."""

    operations: Counter[Sizes] = field(default_factory=Counter)
    examples: dict[Sizes, tuple[float, Callable[[], Any]]] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """All operations."""
        return float(sum(self.operations.values()))

    def add(self, name: str, call: Callable[..., Any], args: Sequence[Any], made: Any) -> None:
        """Counts a call of the operator `name`, if it is a product."""
        if name in BY_WEIGHTS:
            rows = args[BY_WEIGHTS[name]]
            count, inputs, outputs = prod(rows.shape[:-1]), rows.shape[-1], made.shape[-1]
            if name == INT8 and not linear.SUMS_BYTES_EXACTLY:
                count //= 2  # the layer multiplies each row in two halves
            self.operations["weights", _grain(count), inputs, outputs] += 2 * count * inputs * outputs
        elif name in CONVOLUTIONS:
            each = 2 * prod(args[1].shape[1:])
            self._other((name, *args[0].shape, *args[1].shape), each * made.numel(), call)
        elif name in BATCHED:
            first, second = args[-2], args[-1]
            self._other((name, *first.shape, *second.shape), 2 * first.numel() * second.shape[-1], call)
        elif name in ATTENTION:
            query, keys = args[0], args[1]
            length = -(-keys.shape[-2] // POSITIONS_GRAIN) * POSITIONS_GRAIN
            self._other((name, *query.shape, length), 4 * query.numel() * keys.shape[-2], call)

    def _other(self, sizes: Sizes, operations: float, call: Callable[[], Any]) -> None:
        self.operations[sizes] += int(operations)
        self.examples.setdefault(sizes, (operations, call))


def _grain(rows: int) -> int:
    """Few rows are counted as they are, more by the next multiple."""
    return rows if rows <= FEW_ROWS else -(-rows // GRAIN) * GRAIN


class counting_products(TorchDispatchMode):  # noqa: N801 (a context manager)
    """Counts the products of this thread inside, except those in compiled steps. Gives the mode, whose `count` it is."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = ProductCount()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Carries the operator out and counts it."""
        made = func(*args, **(kwargs or {}))
        self.count.add(func._schema.name, partial(func, *args, **(kwargs or {})), args, made)
        return made


def least_seconds(count: ProductCount) -> float:
    """How long the counted products take at least, each as fast as it is by itself."""
    weights: dict[tuple[int, int], list[int]] = {}
    for sizes in count.operations:
        if sizes[0] == "weights":
            _, rows, inputs, outputs = (int(size) if number else 0 for number, size in enumerate(sizes))
            weights.setdefault((inputs, outputs), []).append(rows)
    total = 0.0
    with torch.no_grad():
        for (inputs, outputs), rows_of in weights.items():
            for rows, seconds in _by_weights(inputs, outputs, rows_of).items():
                done = count.operations["weights", rows, inputs, outputs]
                total += seconds * done / (2 * rows * inputs * outputs)
        for sizes, (operations, call) in count.examples.items():
            total += _seconds_of({"": call}, few=False) * count.operations[sizes] / operations
    return total


def _by_weights(inputs: int, outputs: int, rows_of: Sequence[int]) -> dict[int, float]:
    """Seconds of the fastest kernel by the number of rows."""
    weight, rows = random_rows(outputs, inputs), random_rows(max(rows_of), inputs)
    layers = {kernel: KERNELS[kernel](weight, None) for kernel in permitted_kernels("int8")}
    return {
        count: _seconds_of(
            {kernel: partial(layer, rows[:count]) for kernel, layer in layers.items()}, count <= FEW_ROWS
        )
        for count in rows_of
    }


def _seconds_of(calls: Mapping[str, Callable[[], Any]], few: bool) -> float:
    """Of the fastest of the calls. With `few` rows, each finds the caches full of something else."""
    clock, alive = clock_here(), dict(calls)
    for call in calls.values():
        call()
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, call in alive.items():
            if few:
                _other_data().add_(1.0)  # fills the caches
            started = clock()
            call()
            least[name] = min(least[name], clock() - started)
        alive = {name: call for name, call in alive.items() if least[name] <= HOPELESS * min(least.values())}
    return min(least.values())


@cache
def _other_data() -> Tensor:
    return torch.zeros(EVICTED_BYTES // 4)
