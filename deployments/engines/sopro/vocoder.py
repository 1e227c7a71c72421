"""Sopro's vocoder: mel frames to samples, for many streams at once, as the frames arrive.

The network is causal except for a few frames of look-ahead in each layer, so a stream keeps the end of each layer's input,
and the residuals that wait for the look-ahead. The frames of all streams are packed into one matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.engines.lm.checkpoint import Weights
from deployments.engines.lm.feed_forward import FeedForward
from deployments.engines.lm.linear import BLOCK_ROWS, Precision, RowCounts, in_blocks, linear
from deployments.engines.sopro.config import VocoderConfig
from deployments.errors import fail

TAPS = 7
BLOCK: RowCounts = {64: 1.0, BLOCK_ROWS: 1.0}
"""Frames of one stream's chunk, and of a block of several streams."""
ALL_FRAMES: RowCounts = {64: 1.0, 512: 1.0}
"""Frames of one stream's chunk, and of eight streams."""


@dataclass(frozen=True, slots=True)
class VocoderState:
    """The state of a stream: the end of each convolution's input, the residuals that wait, and the unfinished samples.

    `tail` is (n_fft / hop - 1, hop); `hops` counts the hops of samples that were given out. A state is never changed, so
    several streams may start from one.
    """

    inputs: tuple[Tensor, ...]
    waiting: tuple[Tensor, ...]
    tail: Tensor
    hops: int = 0


@dataclass(frozen=True, slots=True)
class VocoderFrames:
    """The next frames (n, mels) of one stream, in the model's scale; `last` if no more follow."""

    state: VocoderState
    frames: Tensor
    last: bool = False


class _ConvNeXtBlock(nn.Module):
    """One ConvNeXt block (https://arxiv.org/abs/2201.03545). `taps` is (7, dim); it looks `ahead` frames ahead."""

    taps: Tensor
    bias: Tensor
    scale: Tensor
    shift: Tensor
    gamma: Tensor

    def __init__(self, weights: Weights, name: str, ahead: int, precision: Precision) -> None:
        super().__init__()
        self.ahead = ahead
        self.register_buffer("taps", weights[f"{name}.dwconv.weight"][:, 0].t().contiguous())
        self.register_buffer("bias", weights[f"{name}.dwconv.bias"])
        self.register_buffer("scale", weights[f"{name}.norm.weight"])
        self.register_buffer("shift", weights[f"{name}.norm.bias"])
        self.register_buffer("gamma", weights[f"{name}.gamma"])
        self.feed_forward = FeedForward(
            linear(weights[f"{name}.pwconv1.weight"], weights[f"{name}.pwconv1.bias"], precision, rows=BLOCK),
            linear(weights[f"{name}.pwconv2.weight"], weights[f"{name}.pwconv2.bias"], precision, rows=BLOCK),
        )

    def convolve(self, frames: Tensor) -> Tensor:
        """(n, dim) to (n - 6, dim), each channel with its own taps."""
        reach = max(0, len(frames) - TAPS + 1)
        y = self.bias + frames[:reach] * self.taps[0]
        for tap in range(1, TAPS):
            y = torch.addcmul(y, frames[tap : tap + reach], self.taps[tap])
        return y

    def leave(self, residual: Tensor, y: Tensor) -> tuple[Tensor]:
        """(n, dim) from the residual and the convolution's output."""
        y = F.layer_norm(y, (y.shape[-1],), self.scale, self.shift, 1e-6)
        return (torch.addcmul(residual, self.gamma, self.feed_forward(y)),)


class SoproVocoder:
    """The weights of the vocoder, and its pass over packed frames."""

    def __init__(self, weights: Weights, config: VocoderConfig, precision: Precision) -> None:
        if not config.causal or config.n_fft % config.hop_length:
            raise fail(
                "unsupported", "This Sopro model has a vocoder that is not causal.", "Use the weights of Sopro v2."
            )
        self._w, self.config = weights, config
        self.hop = config.hop_length
        embed = weights["backbone.embed.weight"].transpose(1, 2).flatten(1)
        self._embed = linear(embed, weights["backbone.embed.bias"], precision, rows=ALL_FRAMES)
        self._out = linear(weights["head.out.weight"], weights["head.out.bias"], precision, rows=ALL_FRAMES)
        aheads = enumerate(config.block_lookaheads[: config.num_layers])
        self._blocks = [
            _ConvNeXtBlock(weights, f"backbone.convnext.{number}", ahead, precision) for number, ahead in aheads
        ]
        self._aheads = [config.lookahead_frames, *(block.ahead for block in self._blocks)]
        self._window = weights["head.istft.window"]
        self._envelope = self._window.square().view(-1, self.hop)

    @property
    def lookahead(self) -> int:
        """Frames that must be known after the last frame that is given out."""
        return sum(self._aheads)

    @property
    def overlap(self) -> int:
        """Hops that a frame extends beyond its own."""
        return self.config.n_fft // self.hop - 1

    def begin(self) -> VocoderState:
        """The state before the first frame."""
        widths = [self.config.n_mels, *[self.config.dim] * len(self._blocks)]
        inputs = [torch.zeros(TAPS - 1 - ahead, width) for ahead, width in zip(self._aheads, widths, strict=True)]
        waiting = [torch.zeros(0, self.config.dim) for _ in self._blocks]
        return VocoderState(tuple(inputs), tuple(waiting), torch.zeros(self.overlap, self.hop))

    def decode(self, batch: Sequence[VocoderFrames]) -> tuple[list[Tensor], list[VocoderState]]:
        """The final samples (hops, hop) of each stream, and the states after them.

        Sample 0 of hop 0 is half a window before the centre of the first frame.
        """
        inputs: list[list[Tensor]] = [[] for _ in batch]
        waiting: list[list[Tensor]] = [[] for _ in batch]
        windows, counts = self._windows([row.frames for row in batch], batch, 0, inputs)
        h = self._embed(windows)
        h = F.layer_norm(h, h.shape[-1:], self._w["backbone.norm.weight"], self._w["backbone.norm.bias"], 1e-6)
        for number, block in enumerate(self._blocks):
            residuals = [
                torch.cat([row.state.waiting[number], own]) for row, own in zip(batch, h.split(counts), strict=True)
            ]
            y, counts = self._depthwise(block, list(h.split(counts)), batch, number + 1, inputs)
            for kept, residual, count in zip(waiting, residuals, counts, strict=True):
                kept.append(residual[count:].clone())
            residual = torch.cat([own[:count] for own, count in zip(residuals, counts, strict=True)])
            (h,) = in_blocks(block.leave, residual, y)
        name = "backbone.final_layer_norm"
        h = F.layer_norm(h, h.shape[-1:], self._w[f"{name}.weight"], self._w[f"{name}.bias"], 1e-6)
        return self._samples(batch, self._out(h), counts, inputs, waiting)

    def _joined(
        self, parts: list[Tensor], batch: Sequence[VocoderFrames], layer: int, inputs: list[list[Tensor]]
    ) -> tuple[list[Tensor], list[int]]:
        """Each stream's input after its earlier input, and the number of output frames. Keeps the end of the input."""
        available = []
        for row, part, kept in zip(batch, parts, inputs, strict=True):
            after = self._aheads[layer] if row.last else 0
            joined = torch.cat([row.state.inputs[layer], F.pad(part, (0, 0, 0, after))])
            available.append(joined)
            kept.append(joined[-(TAPS - 1) :].clone())
        return available, [max(0, len(joined) - TAPS + 1) for joined in available]

    def _windows(
        self, parts: list[Tensor], batch: Sequence[VocoderFrames], layer: int, inputs: list[list[Tensor]]
    ) -> tuple[Tensor, list[int]]:
        available, counts = self._joined(parts, batch, layer, inputs)
        return torch.cat(
            [
                torch.cat([joined[tap : tap + count] for tap in range(TAPS)], dim=1)
                for joined, count in zip(available, counts, strict=True)
            ]
        ), counts

    def _depthwise(
        self,
        block: _ConvNeXtBlock,
        parts: list[Tensor],
        batch: Sequence[VocoderFrames],
        layer: int,
        inputs: list[list[Tensor]],
    ) -> tuple[Tensor, list[int]]:
        available, counts = self._joined(parts, batch, layer, inputs)
        y = block.convolve(torch.cat(available))
        starts = accumulate((len(joined) for joined in available), initial=0)
        # Windows that span two streams are skipped.
        return torch.cat([y[at : at + count] for at, count in zip(starts, counts, strict=False)]), counts

    def _samples(
        self,
        batch: Sequence[VocoderFrames],
        spectrum: Tensor,
        counts: list[int],
        inputs: list[list[Tensor]],
        waiting: list[list[Tensor]],
    ) -> tuple[list[Tensor], list[VocoderState]]:
        """Overlap-add of the inverse transforms, divided by the overlap of the windows."""
        magnitude, phase = spectrum.chunk(2, dim=1)
        magnitude = magnitude.clamp_max(math.log(self.config.max_magnitude)).exp()
        frames = torch.fft.irfft(torch.polar(magnitude, phase), self.config.n_fft, dim=1) * self._window
        whole = self._envelope.sum(0)
        sounds, states = [], []
        for number, (row, own) in enumerate(zip(batch, frames.split(counts), strict=True)):
            count = len(own)
            summed = F.pad(row.state.tail, (0, 0, 0, count))
            for part, hops in enumerate(own.view(count, -1, self.hop).unbind(1)):
                summed[part : part + count] += hops
            sound = summed[:count] / whole
            if row.last:
                sound = torch.cat([sound, summed[count : count + 1] / (whole - self._envelope[0])])
            sounds.append(sound)
            states.append(
                VocoderState(tuple(inputs[number]), tuple(waiting[number]), summed[count:], row.state.hops + count)
            )
        return sounds, states
