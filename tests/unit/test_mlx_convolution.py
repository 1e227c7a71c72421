"""The replaced convolutions equal MLX's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx")

from deployments.engines.mlx.convolution import PLAIN_CONVOLUTION, PLAIN_TRANSPOSED, convolution, transposed_convolution
from deployments.engines.mlx.runtime import mx


def drawn(*shape: int) -> Any:
    return mx.array(np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("taps", "padding", "dilation"), [(3, 0, 2), (7, 9, 3), (11, 25, 5), (1, 0, 4), (4, 2, 1)])
def test_a_dilated_convolution_is_the_same(stride: int, taps: int, padding: int, dilation: int) -> None:
    x, weight = drawn(2, 60, 6), drawn(5, taps, 6)
    expected = PLAIN_CONVOLUTION(x, weight, stride, padding, dilation)
    np.testing.assert_allclose(convolution(x, weight, stride, padding, dilation), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("output_padding", [0, 1, 3])
@pytest.mark.parametrize(
    ("stride", "taps", "padding"), [(10, 20, 5), (6, 12, 3), (2, 3, 1), (3, 2, 0), (1, 5, 2), (4, 7, 0)]
)
def test_a_transposed_convolution_is_the_same(stride: int, taps: int, padding: int, output_padding: int) -> None:
    x, weight = drawn(2, 9, 6), drawn(5, taps, 6)
    expected = PLAIN_TRANSPOSED(x, weight, stride, padding, 1, output_padding)
    result = transposed_convolution(x, weight, stride, padding, 1, output_padding)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4)


def test_grouped_ones_are_left_to_mlx() -> None:
    x, weight = drawn(1, 20, 6), drawn(6, 3, 1)
    np.testing.assert_array_equal(convolution(x, weight, 1, 2, 2, 6), PLAIN_CONVOLUTION(x, weight, 1, 2, 2, 6))
    np.testing.assert_array_equal(
        transposed_convolution(x, weight, 2, 1, 1, 1, 6), PLAIN_TRANSPOSED(x, weight, 2, 1, 1, 1, 6)
    )
