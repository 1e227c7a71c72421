"""Times the kernels for a layer's shape on this processor, and picks the fastest.

The machine may be busy while a model loads. So the kernels take turns and the minimum of each counts; with one thread it is
the thread's own processor time; and the usual kernel stays unless another is clearly faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from deployments.engines.lm.linear import KERNELS, Kernel, LinearSpec

CLEARLY_FASTER = 1.08
LEAST_ROUNDS, MOST_ROUNDS = 2, 12
HOPELESS = 1.5
"""A kernel that is slower than the best by this factor after the first rounds is not timed further."""
MOST_WEIGHTS = 4 << 20
"""Of a larger layer only this many weights are timed: all its kernels together exceed most caches even so."""
BLOCK = 1 << 16
SHORTEST_MS = 1e-6

Product = Callable[[Tensor], Tensor]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class KernelTimes:
    """The minimum milliseconds of each kernel by the number of rows. `exact` kernels give a row the same bits in any number
    of rows."""

    milliseconds: Mapping[Kernel, Mapping[int, float]]
    exact: frozenset[Kernel]


def kernel_times(
    products: Mapping[Kernel, Product], rows: Mapping[int, Tensor], clock: Clock, seconds: float
) -> KernelTimes:
    """Times every product in turns, for about `seconds`. `rows` are the inputs by their number; a smaller one is the
    beginning of a larger one."""
    exact = frozenset(kernel for kernel, product in products.items() if _is_exact(product, rows))
    least = {kernel: dict.fromkeys(rows, float("inf")) for kernel in products}
    order, started = list(products), clock()
    for number in range(MOST_ROUNDS):
        if number >= LEAST_ROUNDS and clock() - started >= seconds:
            break
        for count, inputs in rows.items():
            for kernel in order:
                before = clock()
                products[kernel](inputs)
                least[kernel][count] = min(least[kernel][count], 1000 * (clock() - before))
        order = [*order[1:], order[0]]
        if number + 1 >= LEAST_ROUNDS:
            order = _worth_another_round(order, least)
    return KernelTimes(least, exact)


def _worth_another_round(order: Sequence[Kernel], least: Mapping[Kernel, Mapping[int, float]]) -> list[Kernel]:
    totals = {kernel: sum(_shares(least, kernel).values()) for kernel in order}
    return [kernel for kernel in order if totals[kernel] <= HOPELESS * min(totals.values())]


def _shares(milliseconds: Mapping[Kernel, Mapping[int, float]], kernel: Kernel) -> dict[int, float]:
    """The slowdown of a kernel against the best, by the number of rows."""
    return {
        count: ms / max(min(of[count] for of in milliseconds.values()), SHORTEST_MS)
        for count, ms in milliseconds[kernel].items()
    }


def _is_exact(product: Product, rows: Mapping[int, Tensor]) -> bool:
    """Also warms the product up for every number of rows."""
    made = {count: product(inputs) for count, inputs in rows.items()}
    whole = made[max(made)]
    return all(torch.equal(part, whole[:count]) for count, part in made.items())


def fastest(spec: LinearSpec, times: KernelTimes) -> Kernel:
    """The kernel with the least slowdown against the best, averaged over the numbers of rows by their weights.

    If the usual kernel is exact, only exact kernels are permitted: a stream must sound the same in any batch.
    """
    slowdowns = {kernel: _slowdown(spec, times, kernel) for kernel in times.milliseconds}
    permitted = [kernel for kernel in slowdowns if kernel in times.exact or spec.usual not in times.exact]
    best = min(permitted, key=lambda kernel: slowdowns[kernel])
    return best if slowdowns[spec.usual] >= CLEARLY_FASTER * slowdowns[best] else spec.usual


def _slowdown(spec: LinearSpec, times: KernelTimes, kernel: Kernel) -> float:
    total = sum(weight for _, weight in spec.rows)
    shares = _shares(times.milliseconds, kernel)
    return sum(weight * shares[count] for count, weight in spec.rows) / total


def measure(spec: LinearSpec, kernels: Sequence[Kernel], clock: Clock, seconds: float) -> KernelTimes:
    """Times the kernels for the spec's shape, with random weights, on as many threads as torch has now."""
    outputs = max(1, min(spec.outputs, MOST_WEIGHTS // spec.inputs))
    weight, rows = random_rows(outputs, spec.inputs), random_rows(max(count for count, _ in spec.rows), spec.inputs)
    with torch.no_grad():
        products = {kernel: KERNELS[kernel](weight, None) for kernel in kernels}
        return kernel_times(products, {count: rows[:count] for count, _ in spec.rows}, clock, seconds)


def clock_here() -> Clock:
    """A clock in seconds: processor time of this thread if torch uses no other, so that other processes do not count."""
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


def random_rows(count: int, width: int) -> Tensor:
    """(count, width) float32 numbers from -1 to 1, the same every time. Does not use torch's global generator."""
    block = torch.rand(BLOCK, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return block.repeat(-(-count * width // BLOCK))[: count * width].view(count, width)
