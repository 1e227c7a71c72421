"""The feed-forward part of a layer in each precision, plain and compiled."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deployments.engines.graphs import TOLERANCE, CompiledBackend, relative_error
from deployments.engines.lm.feed_forward import FeedForward, Gelu, gelu_for_bytes
from deployments.engines.lm.linear import AnyPrecision, linear

NEAR = {"float32": 1e-5, "bfloat16": 2e-2, "int8": 4e-2}


def layers(precision: AnyPrecision, gelu: Gelu = "none") -> tuple[FeedForward, FeedForward]:
    """The same weights in that precision and in float32."""
    random = torch.Generator().manual_seed(7)
    up, down = torch.randn(96, 24, generator=random), torch.randn(24, 96, generator=random)
    up_bias, down_bias = torch.randn(96, generator=random), torch.randn(24, generator=random)

    def made(kept: AnyPrecision) -> FeedForward:
        return FeedForward(linear(up, up_bias, kept), linear(down, down_bias, kept), gelu)

    return made(precision), made("float32")


def rows() -> torch.Tensor:
    return torch.randn(6, 24, generator=torch.Generator().manual_seed(8))


@pytest.mark.parametrize("gelu", ["none", "tanh"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_it_is_near_the_exact_one(precision: AnyPrecision, gelu: Gelu) -> None:
    layer, exact = layers(precision, gelu)
    hidden = F.gelu(exact.up(rows()), approximate=gelu)
    expected, made = exact.down(hidden), layer(rows())
    assert made.dtype == torch.float32
    assert (made - expected).norm() < NEAR[precision] * expected.norm()


@pytest.mark.numeric
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_compiled_it_is_the_same_within_its_rounding(precision: AnyPrecision) -> None:
    layer, _ = layers(precision)
    plain = layer(rows())
    replay = CompiledBackend().capture(lambda buffers, _: layer(buffers["x"]), {"x": rows()}, 1)
    assert relative_error(replay(), plain) <= TOLERANCE[precision]


def test_the_bend_for_bytes_is_within_its_bound_everywhere() -> None:
    x = torch.linspace(-30, 30, 600_001)
    assert (gelu_for_bytes(x) - F.gelu(x)).abs().max() <= 2e-4
    assert torch.equal(gelu_for_bytes(torch.zeros(1)), torch.zeros(1))
