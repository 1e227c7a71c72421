"""The decoder of Qwen3-TTS's codec, frame by frame: codes to audio.

A frame's codes are looked up and added, a small transformer attends to a window of frames, and causal convolutions turn the
result into samples. So a frame needs a bounded past: the keys and values of the window, and the last inputs of each
convolution. Frames one by one give the same audio as all at once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deployments.engines.lm.checkpoint import Weights
from deployments.engines.lm.feed_forward import FeedForward
from deployments.engines.lm.kv_cache import KvCache, length_mask
from deployments.engines.lm.linear import AnyPrecision, cache_dtype, linear
from deployments.engines.lm.llama import LlamaLayer
from deployments.engines.lm.rotary import rms_norm, rotary_tables
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
from deployments.engines.lm.transformer import attend, stack
from deployments.engines.qwen3_tts.config import Qwen3TtsCodecShape

SMALLEST_USAGE = 1e-5
NEVER_ZERO = 1e-9
DILATIONS = (1, 3, 9)


class _Codebooks(nn.Module):
    """The vectors of all codes. The first codebook and the sum of the others have a projection each, which are one matrix
    here."""

    tables: Tensor

    def __init__(self, weights: Weights, name: str, count: int) -> None:
        super().__init__()
        places = [("rvq_first", 0), *(("rvq_rest", number) for number in range(count - 1))]
        self.register_buffer("tables", torch.stack([_codebook(weights, f"{name}.{part}", n) for part, n in places]))
        projections = [
            weights[f"{name}.{part}.output_proj.weight"].float()[:, :, 0] for part in ("rvq_first", "rvq_rest")
        ]
        self.project = linear(torch.cat(projections, dim=1), None, "float32")

    def forward(self, codes: Tensor) -> Tensor:
        """(batch, dim) of codes (batch, codebooks) int64."""
        found = self.tables[torch.arange(codes.shape[1], device=codes.device), codes]
        projected: Tensor = self.project(torch.cat([found[:, 0], found[:, 1:].sum(dim=1)], dim=1))
        return projected


def _codebook(weights: Weights, name: str, number: int) -> Tensor:
    book = f"{name}.vq.layers.{number}._codebook"
    usage = weights[f"{book}.cluster_usage"].float().clamp(min=SMALLEST_USAGE)
    return weights[f"{book}.embedding_sum"].float() / usage[:, None]


class _WindowTransformer(nn.Module):
    """A transformer over the last `window` frames. Its cache is a ring: a frame's keys and values overwrite those of the
    frame that left the window."""

    cos: Tensor
    sin: Tensor

    def __init__(
        self, weights: Weights, name: str, shape: Qwen3TtsCodecShape, precision: AnyPrecision, most_frames: int
    ) -> None:
        super().__init__()
        self.shape, self.most_frames = shape, most_frames
        self.enter, self.leave = (
            linear(weights[f"{name}.{part}.weight"].float(), weights[f"{name}.{part}.bias"].float(), precision)
            for part in ("input_proj", "output_proj")
        )
        scaled = _with_layer_scales(weights, f"{name}.layers.")
        self.layers = nn.ModuleList(
            [
                LlamaLayer(scaled, f"{name}.layers.{number}", shape.decoder, precision)
                for number in range(shape.decoder.layers)
            ]
        )
        self.norm = nn.Parameter(weights[f"{name}.norm.weight"].float(), requires_grad=False)
        cos, sin = rotary_tables(most_frames + 1, shape.decoder.head_dim, shape.decoder.base)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)
        self._dtype = cache_dtype(precision, self.norm.device.type)

    def new_cache(self, slots: int) -> KvCache:
        """A ring of `window` frames for each of `slots` streams."""
        decoder = self.shape.decoder
        return KvCache(
            layers=decoder.layers,
            slots=slots,
            heads=decoder.kv_heads,
            capacity=self.shape.window,
            head_dim=decoder.head_dim,
            dtype=self._dtype,
            device=str(self.cos.device),
        )

    def forward(self, x: Tensor, frames: Tensor, cache: KvCache) -> Tensor:
        """(batch, latent) of the frames with numbers `frames` (batch,) int64; number `most_frames` stands for an unused
        row."""
        window = self.shape.window
        places = torch.where(frames < self.most_frames, frames % window, cache.scratch)
        mask = length_mask(frames, window)
        turns = self.cos[frames, None], self.sin[frames, None]
        x = self.enter(x)
        for number, layer in enumerate(stack(self.layers)):
            query, key, value = layer.attention_input(x, *turns)
            x = layer.rest(x, attend(query, key, value, places, mask, cache.keys[number], cache.values[number]))
        left: Tensor = self.leave(rms_norm(x, self.norm, self.shape.decoder.eps))
        return left


def _with_layer_scales(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """The weights of the layers; their scales are merged into the last weights of each half."""
    scaled = {name: weights[name].float() for name in weights if name.startswith(prefix)}
    for name in scaled:
        for end, scale in (("self_attn.o_proj", "self_attn_layer_scale"), ("mlp.down_proj", "mlp_layer_scale")):
            if name.endswith(f"{end}.weight"):
                layer = name.removesuffix(f"{end}.weight")
                scaled[name] = scaled[f"{layer}{scale}.scale"][:, None] * scaled[name]
    return scaled


class _Snake(StreamingLayer):
    """`x + sin(a x)^2 / b` for each channel (https://arxiv.org/abs/2006.08195)."""

    frequency: Tensor
    size_of_wave: Tensor
    size = 0

    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        self.register_buffer("frequency", weights[f"{name}.alpha"].float().exp())
        self.register_buffer("size_of_wave", 1 / (weights[f"{name}.beta"].float().exp() + NEVER_ZERO))

    def forward(self, x: Tensor, past: StreamPast) -> Tensor:
        return x + self.size_of_wave * torch.sin(x * self.frequency).square()


class _SplittingConv(StreamingLayer):
    """A transposed convolution with as many taps as its stride: each input gives a block of outputs by itself."""

    size = 0

    def __init__(self, weights: Weights, name: str, stride: int, site: LayerSize) -> None:
        super().__init__()
        weight = weights[f"{name}.weight"].float()  # (inputs, outputs, taps)
        self.stride = stride
        self.product = site.linear(
            weight.permute(2, 1, 0).flatten(0, 1), weights[f"{name}.bias"].float().repeat(stride)
        )

    def forward(self, x: Tensor, past: StreamPast) -> Tensor:
        return by_rows(self.product, x).view(x.shape[0], x.shape[1] * self.stride, -1)


class _ConvNextBlock(StreamingLayer):
    """A depthwise convolution, a norm and a feed-forward part, whose scale is merged into its last weights."""

    taps: Tensor
    bias: Tensor

    def __init__(self, weights: Weights, name: str, site: LayerSize) -> None:
        super().__init__()
        taps = weights[f"{name}.dwconv.conv.weight"].float()
        self.before = taps.shape[2] - 1
        self.size = self.before * taps.shape[0]
        self.register_buffer("taps", taps[:, 0].t().contiguous())
        self.register_buffer("bias", weights[f"{name}.dwconv.conv.bias"].float())
        self.norm = nn.LayerNorm(taps.shape[0], eps=1e-6)
        self.norm.load_state_dict({part: weights[f"{name}.norm.{part}"].float() for part in ("weight", "bias")})
        scale = weights[f"{name}.gamma"].float()
        (up, up_bias), (down, down_bias) = (
            (weights[f"{name}.pwconv{number}.weight"].float(), weights[f"{name}.pwconv{number}.bias"].float())
            for number in (1, 2)
        )
        self.feed_forward = FeedForward(site.linear(up, up_bias), site.linear(scale[:, None] * down, scale * down_bias))

    def forward(self, x: Tensor, past: StreamPast) -> Tensor:
        time = x.shape[1]
        inputs, mixed = past.before(x, self.before), self.bias
        for number, tap in enumerate(self.taps):
            mixed = torch.addcmul(mixed, inputs[:, number : number + time], tap)
        return x + by_rows(self.feed_forward, self.norm(mixed))


class _ResidualUnit(StreamingLayer):
    """Two convolutions beside a shortcut, each after a `_Snake`."""

    def __init__(self, weights: Weights, name: str, dilation: int, site: LayerSize) -> None:
        super().__init__()
        parts: list[StreamingLayer] = [
            _Snake(weights, f"{name}.act1"),
            StreamingConv(weights, f"{name}.conv1.conv", site, dilation),
            _Snake(weights, f"{name}.act2"),
            StreamingConv(weights, f"{name}.conv2.conv", site),
        ]
        self.parts, self.size = nn.ModuleList(parts), sum(part.size for part in parts)

    def forward(self, x: Tensor, past: StreamPast) -> Tensor:
        made = x
        for part in self.parts:
            made = part(made, past)
        return x + made


def _upsampler(weights: Weights, name: str, shape: Qwen3TtsCodecShape, precision: AnyPrecision) -> CodecStack:
    """Latents (batch, time, latent) to samples (batch, time * hop, 1)."""
    parts: list[StreamingLayer] = []
    rows = 1
    for number, stride in enumerate(shape.strides):
        part = f"{name}.upsample.{number}"
        latent = weights[f"{part}.1.gamma"].shape[0]
        parts.append(_SplittingConv(weights, f"{part}.0.conv", stride, LayerSize(precision, latent, rows)))
        rows *= stride
        parts.append(_ConvNextBlock(weights, f"{part}.1", LayerSize(precision, latent, rows)))
    channels = shape.channels
    parts.append(StreamingConv(weights, f"{name}.decoder.0.conv", LayerSize(precision, channels, rows)))
    for number, rate in enumerate(shape.rates):
        block = f"{name}.decoder.{number + 1}.block"
        parts.append(_Snake(weights, f"{block}.0"))
        parts.append(UpsamplingConv(weights, f"{block}.1.conv", rate, LayerSize(precision, channels, rows)))
        channels, rows = channels // 2, rows * rate
        site = LayerSize(precision, channels, rows)
        parts += [_ResidualUnit(weights, f"{block}.{n}", dilation, site) for n, dilation in enumerate(DILATIONS, 2)]
    last = len(shape.rates) + 1
    parts.append(_Snake(weights, f"{name}.decoder.{last}"))
    return CodecStack([*parts, OutputConv(weights, f"{name}.decoder.{last + 1}.conv")])


class CodecDecoder(nn.Module):
    """Codes to audio, one frame of every stream at a time."""

    def __init__(
        self,
        weights: Weights,
        shape: Qwen3TtsCodecShape,
        precision: AnyPrecision,
        most_frames: int,
        name: str = "decoder",
    ) -> None:
        """`most_frames` is the most frames of a stream."""
        super().__init__()
        self.codebooks = _Codebooks(weights, f"{name}.quantizer", shape.codebooks)
        entry = StreamingConv(weights, f"{name}.pre_conv.conv", LayerSize("float32", shape.channels, 1))
        self.entry = CodecStack([entry])
        self.transformer = _WindowTransformer(weights, f"{name}.pre_transformer", shape, precision, most_frames)
        self.upsampler = _upsampler(weights, name, shape, precision)
        self.state_size = self.entry.state_size + self.upsampler.state_size

    def forward(self, codes: Tensor, frames: Tensor, state: Tensor, cache: KvCache) -> tuple[Tensor, Tensor]:
        """Samples (batch, hop) of codes (batch, codebooks), and the state (batch, state_size) after them. `frames` (batch,)
        are the frames' numbers in their streams; the state begins with zeros."""
        first, later = state.split([self.entry.state_size, self.upsampler.state_size], dim=1)
        latents, first = self.entry(self.codebooks(codes)[:, None], first)
        sound, later = self.upsampler(self.transformer(latents[:, 0], frames, cache)[:, None], later)
        return sound[:, :, 0].clamp(-1, 1), torch.cat([first, later], dim=1)
