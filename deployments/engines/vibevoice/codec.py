"""VibeVoice's streaming convolutions between samples and latents.

All layers are causal: a frame needs the last few inputs of each layer. For one stream these are one flat row, `state`, which
the caller keeps; it starts with zeros. Audio is (batch, time, channels) here, so that all but the depthwise convolutions are
matrix products over rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.engines.lm.checkpoint import Weights
from deployments.engines.lm.feed_forward import FeedForward
from deployments.engines.lm.linear import AnyPrecision, linear
from deployments.engines.lm.rotary import rms_norm
from deployments.engines.vibevoice.config import CodecShape

SMALLEST_INT8 = 256
"""Channels. Narrower layers have few weights and many rows, and rounding every row to int8 usually costs more than it
saves."""
STREAMS = (1, 8)
MOST_ROWS = 1024
"""The time of a product with more rows is proportional to their number, for each kernel."""


@dataclass(frozen=True, slots=True)
class _LayerSize:
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


class _StreamingLayer(nn.Module):
    """A layer, with the number of past inputs that it keeps for each stream."""

    size: int


class _StreamingConv(_StreamingLayer):
    """A convolution over windows of `kernel` inputs, as a matrix product."""

    def __init__(self, weights: Weights, name: str, site: _LayerSize) -> None:
        super().__init__()
        weight = weights[f"{name}.weight"].float()
        self.kernel, self.before = weight.shape[2], weight.shape[2] - 1
        self.size = self.before * weight.shape[1]
        self.product = site.linear(weight.flatten(1), weights[f"{name}.bias"].float())

    def forward(self, x: Tensor, past: StreamPast) -> Tensor:
        windows = past.before(x, self.before).unfold(1, self.kernel, 1)
        return _rows(self.product, windows.flatten(2))


class _OutputConv(_StreamingLayer):
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


class _DownsamplingConv(_StreamingLayer):
    """A convolution with twice as many taps as its stride: each output uses two blocks of inputs."""

    def __init__(self, weights: Weights, name: str, stride: int, site: _LayerSize) -> None:
        super().__init__()
        weight = weights[f"{name}.weight"].float()
        self.stride, self.size = stride, stride * weight.shape[1]
        self.product = site.linear(weight.transpose(1, 2).flatten(1), weights[f"{name}.bias"].float())

    def forward(self, x: Tensor, past: StreamPast) -> Tensor:
        batch, _, channels = x.shape
        blocks = past.before(x, self.stride).view(batch, -1, self.stride * channels)
        return _rows(self.product, torch.cat([blocks[:, :-1], blocks[:, 1:]], dim=2))


class _UpsamplingConv(_StreamingLayer):
    """A transposed convolution with twice as many taps as its stride: each input and the one before give a block of
    outputs."""

    def __init__(self, weights: Weights, name: str, stride: int, site: _LayerSize) -> None:
        super().__init__()
        weight = weights[f"{name}.weight"].float()  # (inputs, outputs, taps)
        self.stride, self.size = stride, weight.shape[0]
        earlier, own = weight[:, :, stride:], weight[:, :, :stride]
        both = torch.cat([earlier, own]).permute(2, 1, 0).flatten(0, 1)
        self.product = site.linear(both, weights[f"{name}.bias"].float().repeat(stride))

    def forward(self, x: Tensor, past: StreamPast) -> Tensor:
        batch, time, _ = x.shape
        pairs = past.before(x, 1)
        made = _rows(self.product, torch.cat([pairs[:, :-1], pairs[:, 1:]], dim=2))
        return made.view(batch, time * self.stride, -1)


class _CodecBlock(_StreamingLayer):
    """A depthwise convolution and a feed-forward half. The layer scales are merged into the last weights of each half."""

    taps: Tensor
    bias: Tensor

    def __init__(self, weights: Weights, name: str, eps: float, site: _LayerSize) -> None:
        super().__init__()
        scale, after = weights[f"{name}.gamma"].float(), weights[f"{name}.ffn_gamma"].float()
        mixer = weights[f"{name}.mixer.conv.weight"].float()
        self.eps, self.before = eps, mixer.shape[2] - 1
        self.size = self.before * mixer.shape[0]
        self.norm = nn.Parameter(weights[f"{name}.norm.weight"].float(), requires_grad=False)
        self.feed_forward_norm = nn.Parameter(weights[f"{name}.ffn_norm.weight"].float(), requires_grad=False)
        self.register_buffer("taps", (scale[:, None] * mixer[:, 0]).t().contiguous())
        self.register_buffer("bias", scale * weights[f"{name}.mixer.conv.bias"].float())
        up, down = (weights[f"{name}.ffn.linear{number}.weight"].float() for number in (1, 2))
        up_bias, down_bias = (weights[f"{name}.ffn.linear{number}.bias"].float() for number in (1, 2))
        widen, narrow = site.linear(up, up_bias), site.linear(after[:, None] * down, after * down_bias)
        self.feed_forward = FeedForward(widen, narrow)

    def forward(self, x: Tensor, past: StreamPast) -> Tensor:
        time = x.shape[1]
        inputs = past.before(rms_norm(x, self.norm, self.eps), self.before)
        mixed = self.bias
        for number, tap in enumerate(self.taps):
            mixed = torch.addcmul(mixed, inputs[:, number : number + time], tap)
        x = x + mixed
        return x + _rows(self.feed_forward, rms_norm(x, self.feed_forward_norm, self.eps))


def _rows(product: nn.Module, x: Tensor) -> Tensor:
    made: Tensor = product(x.flatten(0, 1))
    return made.view(x.shape[0], x.shape[1], -1)


class CodecStack(nn.Module):
    """Layers in sequence over one state of `state_size` numbers for each stream."""

    def __init__(self, parts: Sequence[_StreamingLayer]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.state_size = sum(part.size for part in parts)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The output for the next inputs (batch, time, channels), and the state (batch, state_size) after them."""
        past = StreamPast(state)
        for part in self.parts:
            x = part(x, past)
        return x, past.new()


def _blocks(weights: Weights, name: str, count: int, shape: CodecShape, site: _LayerSize) -> list[_StreamingLayer]:
    return [_CodecBlock(weights, f"{name}.stage.{number}", shape.eps, site) for number in range(count)]


def encoder(weights: Weights, name: str, shape: CodecShape, precision: AnyPrecision) -> CodecStack:
    """Samples (batch, frames * hop, 1) to latents (batch, frames, latent)."""
    channels = [shape.filters * 2**number for number in range(len(shape.depths))]
    rows = shape.hop
    parts: list[_StreamingLayer] = [
        _StreamingConv(weights, f"{name}.stem.conv.conv", _LayerSize("float32", channels[0], rows))
    ]
    parts += _blocks(weights, f"{name}.stem", shape.depths[0], shape, _LayerSize(precision, channels[0], rows))
    for number, (inputs, outputs) in enumerate(pairwise(channels)):
        layer, stride = f"{name}.conv_layers.{number}", shape.ratios[number]
        rows //= stride
        parts.append(_DownsamplingConv(weights, f"{layer}.conv.conv", stride, _LayerSize(precision, inputs, rows)))
        parts += _blocks(weights, layer, shape.depths[number + 1], shape, _LayerSize(precision, outputs, rows))
    return CodecStack([*parts, _StreamingConv(weights, f"{name}.head.conv", _LayerSize("float32", channels[-1], rows))])


def decoder(weights: Weights, name: str, shape: CodecShape, precision: AnyPrecision) -> CodecStack:
    """Latents (batch, frames, latent) to samples (batch, frames * hop, 1)."""
    depths, ratios = shape.depths[::-1], shape.ratios[::-1]
    channels = [shape.filters * 2**number for number in reversed(range(len(depths)))]
    rows = 1
    parts: list[_StreamingLayer] = [
        _StreamingConv(weights, f"{name}.stem.conv.conv", _LayerSize("float32", channels[0], rows))
    ]
    parts += _blocks(weights, f"{name}.stem", depths[0], shape, _LayerSize(precision, channels[0], rows))
    for number, (inputs, outputs) in enumerate(pairwise(channels)):
        layer, stride = f"{name}.conv_layers.{number}", ratios[number]
        parts.append(_UpsamplingConv(weights, f"{layer}.convtr.convtr", stride, _LayerSize(precision, inputs, rows)))
        rows *= stride
        parts += _blocks(weights, layer, depths[number + 1], shape, _LayerSize(precision, outputs, rows))
    return CodecStack([*parts, _OutputConv(weights, f"{name}.head.conv")])


def encode(stack: CodecStack, sound: Tensor, hop: int, frames: int = 8) -> Tensor:
    """The latents (n, latent) of mono samples (n,), padded with silence to whole frames. Encodes `frames` frames at a time,
    to bound its memory."""
    count = math.ceil(len(sound) / hop)
    sound = F.pad(sound, (0, count * hop - len(sound)))
    state = torch.zeros(1, stack.state_size)
    made = []
    for part in sound.split(frames * hop):
        latents, state = stack(part[None, :, None], state)
        made.append(latents[0])
    return torch.cat(made)
