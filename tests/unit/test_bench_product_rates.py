"""The limit by matrix products: the count is that of torch, whichever function calls it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deployments.engines.lm import linear
from deployments.engines.lm.linear import KERNELS, Kernel, permitted_kernels
from tests.load import product_rates
from tests.load.product_rates import counting_products, least_seconds


@pytest.mark.parametrize("exact", [True, False], ids=["vnni", "no-vnni"])
@pytest.mark.parametrize("kernel", permitted_kernels("int8"))
def test_a_layers_product_is_counted_once_whatever_its_kernel(
    kernel: Kernel, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "SUMS_BYTES_EXACTLY", exact)
    layer = KERNELS[kernel](torch.randn(48, 64), torch.zeros(48))
    with torch.no_grad(), counting_products() as products:
        layer(torch.randn(3, 64))
        layer(torch.randn(3, 64))
    assert dict(products.count.operations) == {("weights", 3, 64, 48): 2 * 2 * 3 * 64 * 48}


def test_many_rows_are_counted_by_multiples() -> None:
    with torch.no_grad(), counting_products() as products:
        for rows in (40, 64):
            F.linear(torch.randn(rows, 8), torch.randn(4, 8))
    assert dict(products.count.operations) == {("weights", 64, 8, 4): 2 * (40 + 64) * 8 * 4}


def test_attention_batches_and_convolutions_are_counted() -> None:
    query, keys = torch.randn(1, 2, 5, 16), torch.randn(1, 2, 200, 16)
    with torch.no_grad(), counting_products() as products:
        F.scaled_dot_product_attention(query, keys, keys)
        torch.randn(2, 3, 4) @ torch.randn(2, 4, 5)
        F.conv1d(torch.randn(1, 6, 10), torch.randn(8, 3, 3), groups=2)
    by_name = {str(sizes[0]): operations for sizes, operations in products.count.operations.items()}
    assert sorted(by_name.values()) == sorted([4 * 2 * 5 * 200 * 16, 2 * 2 * 3 * 4 * 5, 2 * 3 * 3 * 8 * 8])
    assert len(products.count.examples) == 3


def test_nothing_else_is_counted() -> None:
    with counting_products() as products:
        F.gelu(torch.randn(4, 4)) + F.layer_norm(torch.randn(4, 4), (4,))
    assert products.count.total == 0


def test_the_least_time_is_that_of_the_fastest_kernel_times_how_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake clock gives every call a second; the product is counted twice, attention once."""
    with torch.no_grad(), counting_products() as products:
        for _ in range(2):
            F.linear(torch.randn(3, 8), torch.randn(4, 8))
        F.scaled_dot_product_attention(torch.randn(1, 1, 2, 8), torch.randn(1, 1, 4, 8), torch.randn(1, 1, 4, 8))
    ticks = iter(range(1000))
    monkeypatch.setattr(product_rates, "clock_here", lambda: lambda: float(next(ticks)))
    monkeypatch.setattr(product_rates, "EVICTED_BYTES", 64)
    assert least_seconds(products.count) == pytest.approx(3.0)
