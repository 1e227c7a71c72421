"""Convolutions that are slow on MLX's CPU backend, as matrix products.

MLX 0.32 runs dilated and transposed convolutions, which most vocoders consist of, in nested loops, and copies every tap of
the others to memory first. `motet bench mlx` prints the difference. On a GPU nothing is replaced.
"""

from __future__ import annotations

from typing import Any

from deployments.engines.mlx.runtime import mx

PLAIN_CONVOLUTION = mx.conv1d
PLAIN_TRANSPOSED = mx.conv_transpose1d


def prepare_cpu_backend() -> None:
    """If the default device is a CPU, replaces MLX's convolutions with those below, and turns compiled graphs off.

    Compiling runs the system's C++ compiler for each new shape, which takes seconds and saves milliseconds.
    """
    if mx.default_device() == mx.Device(mx.cpu):
        mx.conv1d = convolution
        mx.conv_transpose1d = transposed_convolution
        mx.disable_compile()


def convolution(
    x: Any, weight: Any, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1, *, stream: Any = None
) -> Any:
    """`mlx.core.conv1d`: `x` (batch, time, in) and `weight` (out, taps, in) give (batch, time', out)."""
    if groups != 1:
        return PLAIN_CONVOLUTION(x, weight, stride, padding, dilation, groups, stream=stream)
    taps = weight.shape[1]
    x = mx.pad(x, [(0, 0), (padding, padding), (0, 0)])
    length = (x.shape[1] - dilation * (taps - 1) - 1) // stride + 1
    reach = (length - 1) * stride + 1
    parts = (x[:, tap * dilation : tap * dilation + reach : stride] @ weight[:, tap].T for tap in range(taps))
    return sum(parts, start=mx.zeros((), x.dtype))


def transposed_convolution(
    x: Any,
    weight: Any,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    output_padding: int = 0,
    groups: int = 1,
    *,
    stream: Any = None,
) -> Any:
    """`mlx.core.conv_transpose1d`: `x` (batch, time, in) and `weight` (out, taps, in) give (batch, time', out).

    Each input frame becomes `taps` output frames, which begin `stride` after those of the frame before; overlapping frames
    are added.
    """
    if dilation != 1 or groups != 1:
        return PLAIN_TRANSPOSED(x, weight, stride, padding, dilation, output_padding, groups, stream=stream)
    batch, time, width = x.shape
    out, taps, _ = weight.shape
    blocks = -(-taps // stride)
    weight = mx.pad(weight, [(0, 0), (0, blocks * stride - taps), (0, 0)])
    spread = (x @ weight.reshape(-1, width).T).reshape(batch, time, out, blocks, stride).swapaxes(2, 4)
    laid = (
        mx.pad(spread[:, :, :, block], [(0, 0), (block, blocks - 1 - block), (0, 0), (0, 0)]) for block in range(blocks)
    )
    summed = sum(laid, start=mx.zeros((), x.dtype)).reshape(batch, -1, out)
    length = (time - 1) * stride - 2 * padding + taps + output_padding
    missing = max(padding + length - summed.shape[1], 0)
    return mx.pad(summed, [(0, 0), (0, missing), (0, 0)])[:, padding : padding + length]
