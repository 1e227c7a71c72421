"""Streaming convolutions of audio codecs, between samples and latents.

All layers are causal: a frame needs the last few inputs of each layer. For one stream these are one flat row, `state`, which
the caller keeps; it starts with zeros. Audio is (batch, time, channels) here, so that all but the depthwise convolutions are
matrix products over rows. VibeVoice and Qwen3-TTS use them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.engines.lm.checkpoint import Weights
from deployments.engines.lm.linear import AnyPrecision, linear

SMALLEST_INT8 = 256
"""Channels. Narrower layers have few weights and many rows, and rounding every row to int8 usually costs more than it
saves."""
STREAMS = (1, 8)
MOST_ROWS = 1024
"""The time of a product with more rows is proportional to their number, for each kernel."""


@dataclass(frozen=True, slots=True)
class LayerSize:
    """The size of a layer: its channels, and its rows for each frame."""

    precision: AnyPrecision
    channels: int
    frame_rows: int

    def linear(self, weight: Tensor, bias: Tensor) -> nn.Module:
        """A layer of (outputs, inputs) `weight`."""
        rows = {min(count * self.frame_rows, MOST_ROWS): 1.0 for count in STREAMS}
        narrow = self.precision == "int8" and self.channels < SMALLEST_INT8
        return linear(weight, bias, self.precision, rows=rows, usual="bfloat16" if narrow else None)


class StreamPast:
    """The past inputs of a batch of streams, read layer by layer, and the next ones."""

    def __init__(self, state: Tensor) -> None:
        """`state` is (batch, numbers)."""
        self._state = state
        self._at = 0
        self._kept: list[Tensor] = []

    def before(self, x: Tensor, count: int) -> Tensor:
        """(batch, count + time, channels): `x` after the `count` inputs before it."""
        batch, _, channels = x.shape
        stop = self._at + count * channels
        whole = torch.cat([self._state[:, self._at : stop].view(batch, count, channels), x], dim=1)
        self._at = stop
        self._kept.append(whole[:, whole.shape[1] - count :].flatten(1))
        return whole

    def new(self) -> Tensor:
        """The state after this frame."""
        return torch.cat(self._kept, dim=1)


class StreamingLayer(nn.Module):
    """A layer, with the number of past inputs that it keeps for each stream."""

    size: int


class StreamingConv(StreamingLayer):
    """A convolution over windows of inputs, `dilation` apart, as a matrix product."""

    def __init__(self, weights: Weights, name: str, site: LayerSize, dilation: int = 1) -> None:
        super().__init__()
        weight = weights[f"{name}.weight"].float()
        self.dilation, self.before = dilation, (weight.shape[2] - 1) * dilation
        self.size = self.before * weight.shape[1]
        self.product = site.linear(weight.flatten(1), weights[f"{name}.bias"].float())

    def forward(self, x: Tensor, past: StreamPast) -> Tensor:
        windows = past.before(x, self.before).unfold(1, self.before + 1, 1)[..., :: self.dilation]
        return by_rows(self.product, windows.flatten(2))


class OutputConv(StreamingLayer):
    """A convolution to one channel. It multiplies each input by all taps at once and adds up the parts of each sample:
    copying windows of the inputs would take many times their size."""

    taps: Tensor
    bias: Tensor

    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        weight = weights[f"{name}.weight"].float()  # (1, inputs, taps)
        self.kernel, self.before = weight.shape[2], weight.shape[2] - 1
        self.size = self.before * weight.shape[1]
        self.register_buffer("taps", weight[0].t().contiguous())
        self.register_buffer("bias", weights[f"{name}.bias"].float())

    def forward(self, x: Tensor, past: StreamPast) -> Tensor:
        time = x.shape[1]
        shares = F.linear(past.before(x, self.before), self.taps)
        made = self.bias
        for tap in range(self.kernel):
            made = made + shares[:, tap : tap + time, tap]
        return made.unsqueeze(2)


class UpsamplingConv(StreamingLayer):
    """A transposed convolution with twice as many taps as its stride: each input and the one before give a block of
    outputs."""

    def __init__(self, weights: Weights, name: str, stride: int, site: LayerSize) -> None:
        super().__init__()
        weight = weights[f"{name}.weight"].float()  # (inputs, outputs, taps)
        self.stride, self.size = stride, weight.shape[0]
        earlier, own = weight[:, :, stride:], weight[:, :, :stride]
        both = torch.cat([earlier, own]).permute(2, 1, 0).flatten(0, 1)
        self.product = site.linear(both, weights[f"{name}.bias"].float().repeat(stride))

    def forward(self, x: Tensor, past: StreamPast) -> Tensor:
        batch, time, _ = x.shape
        pairs = past.before(x, 1)
        made = by_rows(self.product, torch.cat([pairs[:, :-1], pairs[:, 1:]], dim=2))
        return made.view(batch, time * self.stride, -1)


def by_rows(product: nn.Module, x: Tensor) -> Tensor:
    made: Tensor = product(x.flatten(0, 1))
    return made.view(x.shape[0], x.shape[1], -1)


class CodecStack(nn.Module):
    """Layers in sequence over one state of `state_size` numbers for each stream."""

    def __init__(self, parts: Sequence[StreamingLayer]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.state_size = sum(part.size for part in parts)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The output for the next inputs (batch, time, channels), and the state (batch, state_size) after them."""
        past = StreamPast(state)
        for part in self.parts:
            x = part(x, past)
        return x, past.new()
