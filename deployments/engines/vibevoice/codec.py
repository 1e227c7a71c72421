"""VibeVoice's codec: streaming convolutions between samples and latents."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.engines.lm.checkpoint import Weights
from deployments.engines.lm.feed_forward import FeedForward
from deployments.engines.lm.linear import AnyPrecision
from deployments.engines.lm.rotary import rms_norm
from deployments.engines.lm.streaming_convolutions import (
    CodecStack,
    LayerSize,
    OutputConv,
    StreamingConv,
    StreamingLayer,
    StreamPast,
    UpsamplingConv,
    by_rows,
)
from deployments.engines.vibevoice.config import CodecShape


class _DownsamplingConv(StreamingLayer):
    """A convolution with twice as many taps as its stride: each output uses two blocks of inputs."""

    def __init__(self, weights: Weights, name: str, stride: int, site: LayerSize) -> None:
        super().__init__()
        weight = weights[f"{name}.weight"].float()
        self.stride, self.size = stride, stride * weight.shape[1]
        self.product = site.linear(weight.transpose(1, 2).flatten(1), weights[f"{name}.bias"].float())

    def forward(self, x: Tensor, past: StreamPast) -> Tensor:
        batch, _, channels = x.shape
        blocks = past.before(x, self.stride).view(batch, -1, self.stride * channels)
        return by_rows(self.product, torch.cat([blocks[:, :-1], blocks[:, 1:]], dim=2))


class _CodecBlock(StreamingLayer):
    """A depthwise convolution and a feed-forward half. The layer scales are merged into the last weights of each half."""

    taps: Tensor
    bias: Tensor

    def __init__(self, weights: Weights, name: str, eps: float, site: LayerSize) -> None:
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
        return x + by_rows(self.feed_forward, rms_norm(x, self.feed_forward_norm, self.eps))


def _blocks(weights: Weights, name: str, count: int, shape: CodecShape, site: LayerSize) -> list[StreamingLayer]:
    return [_CodecBlock(weights, f"{name}.stage.{number}", shape.eps, site) for number in range(count)]


def encoder(weights: Weights, name: str, shape: CodecShape, precision: AnyPrecision) -> CodecStack:
    """Samples (batch, frames * hop, 1) to latents (batch, frames, latent)."""
    channels = [shape.filters * 2**number for number in range(len(shape.depths))]
    rows = shape.hop
    parts: list[StreamingLayer] = [
        StreamingConv(weights, f"{name}.stem.conv.conv", LayerSize("float32", channels[0], rows))
    ]
    parts += _blocks(weights, f"{name}.stem", shape.depths[0], shape, LayerSize(precision, channels[0], rows))
    for number, (inputs, outputs) in enumerate(pairwise(channels)):
        layer, stride = f"{name}.conv_layers.{number}", shape.ratios[number]
        rows //= stride
        parts.append(_DownsamplingConv(weights, f"{layer}.conv.conv", stride, LayerSize(precision, inputs, rows)))
        parts += _blocks(weights, layer, shape.depths[number + 1], shape, LayerSize(precision, outputs, rows))
    return CodecStack([*parts, StreamingConv(weights, f"{name}.head.conv", LayerSize("float32", channels[-1], rows))])


def decoder(weights: Weights, name: str, shape: CodecShape, precision: AnyPrecision) -> CodecStack:
    """Latents (batch, frames, latent) to samples (batch, frames * hop, 1)."""
    depths, ratios = shape.depths[::-1], shape.ratios[::-1]
    channels = [shape.filters * 2**number for number in reversed(range(len(depths)))]
    rows = 1
    parts: list[StreamingLayer] = [
        StreamingConv(weights, f"{name}.stem.conv.conv", LayerSize("float32", channels[0], rows))
    ]
    parts += _blocks(weights, f"{name}.stem", depths[0], shape, LayerSize(precision, channels[0], rows))
    for number, (inputs, outputs) in enumerate(pairwise(channels)):
        layer, stride = f"{name}.conv_layers.{number}", ratios[number]
        parts.append(UpsamplingConv(weights, f"{layer}.convtr.convtr", stride, LayerSize(precision, inputs, rows)))
        rows *= stride
        parts += _blocks(weights, layer, depths[number + 1], shape, LayerSize(precision, outputs, rows))
    return CodecStack([*parts, OutputConv(weights, f"{name}.head.conv")])


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
