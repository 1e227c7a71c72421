"""Sopro's acoustic head: semantic tokens to mel frames, for many streams at once, chunk by chunk.

A flow-matching transformer is solved in a few steps. A frame attends to its own chunk and to earlier ones, so solved frames
do not change: a stream keeps the keys and values of its frames, and the last inputs of its convolutions. The frames of a
voice's clip are solved once and shared by all streams of the voice. The rows of all streams are packed into one matrix
without padding; only attention runs stream by stream.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.engines.lm.checkpoint import Weights
from deployments.engines.lm.feed_forward import FeedForward
from deployments.engines.lm.linear import BLOCK_ROWS, Precision, RowCounts, in_blocks, linear
from deployments.engines.lm.rotary import rotary_tables, rotate
from deployments.engines.sopro.config import SoproModelConfig
from deployments.errors import fail

FIRST_FRAMES = 512
LONGEST_FRAMES = 8192
FRAME_ROWS: RowCounts = {64: 1.0, BLOCK_ROWS: 1.0}
"""Frames of one stream's chunk, and of a block of several streams."""
TOKEN_ROWS: RowCounts = {16: 1.0, 128: 1.0}
"""Tokens of one stream's chunk, and of eight streams."""


class AcousticState:
    """The state of one stream, or of one voice's clip, for its next frames.

    `solved` counts frames from the start of the clip. `first` is the index of the first frame in `memory`, a tensor (steps,
    layers, 2, heads, frames, head_dim) of keys and values that doubles when it is full.
    """

    solved: int
    embedded: list[tuple[Tensor, Tensor]]
    looked: Tensor
    mixed: Tensor

    def __init__(self, head: AcousticHead, prompt: AcousticState | None = None) -> None:
        config, steps = head.config, head.steps
        self.prompt = prompt
        self.first = self.solved = prompt.solved if prompt else 0
        heads, dim = config.acoustic_dit_heads, config.acoustic_dit_dim_head
        self.memory = torch.empty(steps, config.acoustic_dit_depth, 2, heads, FIRST_FRAMES, dim)
        if prompt is not None:
            self.embedded, self.looked, self.mixed = prompt.embedded, prompt.looked, prompt.mixed
            return
        back = config.acoustic_pos_kernel_size - 1
        zeros = torch.zeros(back, config.acoustic_dit_dim)
        self.embedded = [(zeros, zeros)] * steps
        self.looked = torch.zeros(2, config.latent_dim)
        self.mixed = torch.zeros(1, config.latent_dim)

    def make_room(self, frames: int) -> None:
        """Grows the memory for frames up to index `frames`."""
        while frames - self.first > self.memory.shape[4]:
            grown = torch.empty(*self.memory.shape[:4], 2 * self.memory.shape[4], self.memory.shape[5])
            grown[:, :, :, :, : self.memory.shape[4]] = self.memory
            self.memory = grown


@dataclass(frozen=True, slots=True)
class AcousticFrames:
    """The next frames of one stream: their tokens (n,), and up to `lookahead` tokens after them.

    `noise` and `clip` are (frames, mels). The first `len(clip)` frames belong to the clip and are given, not generated.
    `speaker` (dim,) is the voice's part of the input layer.
    """

    state: AcousticState
    tokens: Tensor
    ahead: Tensor
    noise: Tensor
    clip: Tensor
    speaker: Tensor

    @property
    def span(self) -> tuple[int, int]:
        """The first frame and the end, counted from the start of the clip."""
        return self.state.solved, self.state.solved + len(self.noise)


class _TransformerLayer(nn.Module):
    """One transformer layer without its attention, on packed rows."""

    def __init__(self, qkv: nn.Module, out: nn.Module, feed_forward: FeedForward, heads: int) -> None:
        super().__init__()
        self.qkv, self.out, self.feed_forward, self.heads = qkv, out, feed_forward, heads

    def enter(self, how: _Modulation, h: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (n, heads, head_dim), of (n, dim)."""
        normed = F.layer_norm(h, (h.shape[-1],), how.scale, how.shift, 1e-6)
        query, key, value = self.qkv(normed).view(h.shape[0], 3, self.heads, -1).unbind(1)
        return rotate(query, cos, sin), rotate(key, cos, sin), value

    def leave(self, how: _Modulation, h: Tensor, attended: Tensor) -> tuple[Tensor]:
        """(n, dim) after the attention's output projection and the feed-forward half."""
        h = torch.addcmul(h, how.gate, self.out(attended))
        normed = F.layer_norm(h, (h.shape[-1],), how.scale_up, how.shift_up, 1e-6)
        return (torch.addcmul(h, how.gate_up, self.feed_forward(normed)),)


@dataclass(frozen=True, slots=True)
class _Modulation:
    """The adaptive norms and gates of one layer at one solver step, each (dim,)."""

    scale: Tensor
    shift: Tensor
    gate: Tensor
    scale_up: Tensor
    shift_up: Tensor
    gate_up: Tensor


class AcousticHead:
    """The weights of the acoustic head, and the solver over packed frames."""

    def __init__(
        self, weights: Weights, config: SoproModelConfig, precision: Precision, *, steps: int, chunk: int
    ) -> None:
        """The solver takes `steps` steps; frames attend within chunks of `chunk` frames."""
        if config.acoustic_num_left_chunks >= 0 or config.acoustic_upsampler_kernel_size != 3:
            raise fail(
                "unsupported", "This Sopro model has an unsupported acoustic head.", "Use the weights of Sopro v2."
            )
        self.config, self.steps, self.chunk = config, steps, chunk
        self._w = {
            name.removeprefix("acoustic_head."): tensor for name, tensor in weights.items() if "acoustic" in name
        }
        self._semantic = _SemanticPath(self._w, config, precision)
        self._layers = [self._layer(number, precision) for number in range(config.acoustic_dit_depth)]
        self._times = _time_grid(steps, config.acoustic_sway_sampling_coef)
        self._modulations, self._last = self._fixed_modulations()
        self._cos, self._sin = rotary_tables(LONGEST_FRAMES, config.acoustic_dit_dim_head)
        mels, mu = config.acoustic_mel_n_mels, config.acoustic_mu_dim or config.acoustic_mel_n_mels
        parts = self._w["input_embed.proj.weight"].split([mels, mels, mu, config.acoustic_spk_dim], dim=1)
        self._from_x, self._from_clip, self._from_mu, self._from_speaker = (part.contiguous() for part in parts)

    def _layer(self, number: int, precision: Precision) -> _TransformerLayer:
        def stacked(names: Sequence[str]) -> nn.Module:
            weight = torch.cat([self._w[f"blocks.{number}.{name}.weight"] for name in names])
            bias = torch.cat([self._w[f"blocks.{number}.{name}.bias"] for name in names])
            return linear(weight, bias, precision, rows=FRAME_ROWS)

        qkv = stacked(["attn.to_q", "attn.to_k", "attn.to_v"])
        out, up, down = stacked(["attn.to_out.0"]), stacked(["ff.0"]), stacked(["ff.3"])
        return _TransformerLayer(qkv, out, FeedForward(up, down, "tanh"), self.config.acoustic_dit_heads)

    def _fixed_modulations(self) -> tuple[list[list[_Modulation]], list[tuple[Tensor, Tensor]]]:
        """All streams share the times of the solver steps, so what depends on the time alone is computed once."""
        layers, last = [], []
        for time in self._times[:-1]:
            angles = _sinusoids(time, self.config.acoustic_time_embed_dim)
            hidden = F.silu(F.linear(angles, self._w["time_mlp.0.weight"], self._w["time_mlp.0.bias"]))
            emb = F.silu(F.linear(hidden, self._w["time_mlp.2.weight"], self._w["time_mlp.2.bias"]))
            layers.append([self._modulation(emb, number) for number in range(self.config.acoustic_dit_depth)])
            final = F.linear(emb, self._w["out_norm.mod.1.weight"], self._w["out_norm.mod.1.bias"])
            scale, shift = final.chunk(2)
            last.append((1 + scale, shift))
        return layers, last

    def _modulation(self, emb: Tensor, number: int) -> _Modulation:
        name = f"blocks.{number}.attn_norm.mod.1"
        parts = F.linear(emb, self._w[f"{name}.weight"], self._w[f"{name}.bias"]).chunk(6)
        shift, scale, gate, shift_up, scale_up, gate_up = parts
        return _Modulation(1 + scale, shift, gate, 1 + scale_up, shift_up, gate_up)

    def speaker(self, condition: Tensor) -> Tensor:
        """The part of the input layer for a voice's condition (cond_hidden_dim,): (dim,)."""
        spk = F.linear(F.normalize(condition, dim=-1), self._w["spk_proj.weight"], self._w["spk_proj.bias"])
        return F.linear(spk * bool(condition.any()), self._from_speaker, self._w["input_embed.proj.bias"])

    @property
    def lookahead(self) -> int:
        """Tokens that must be known after the last token of the frames to solve, except at the end of the text."""
        return self.config.acoustic_pre_lookahead_frames

    def solve(self, batch: Sequence[AcousticFrames]) -> list[Tensor]:
        """The next mel frames (frames, mels) of each stream. Advances the states."""
        order = sorted(range(len(batch)), key=lambda number: id(batch[number].state.prompt))
        solved = self._solve([batch[number] for number in order])
        found = dict(zip(order, solved, strict=True))
        return [found[number] for number in range(len(batch))]

    def _solve(self, batch: list[AcousticFrames]) -> list[Tensor]:
        counts = [len(row.noise) for row in batch]
        for row in batch:
            row.state.make_room(row.span[1])
        noise = torch.cat([row.noise for row in batch])
        clip = torch.cat([F.pad(row.clip, (0, 0, 0, len(row.noise) - len(row.clip))) for row in batch])
        given = torch.cat([torch.arange(len(row.noise)) < len(row.clip) for row in batch])[:, None]
        places = torch.cat([torch.arange(*row.span) for row in batch])
        cos, sin = self._cos[places, None], self._sin[places, None]
        fixed = F.linear(clip, self._from_clip) + given * self._w["input_embed.cond_mask_proj.weight"][:, 0]
        means, ends = self._semantic(batch)
        fixed = fixed + F.linear(means, self._from_mu)
        fixed = fixed + torch.cat([row.speaker.expand(len(row.noise), -1) for row in batch])
        x = noise
        embedded: list[list[tuple[Tensor, Tensor]]] = [[] for _ in batch]
        for step in range(self.steps):
            before, after = self._times[step], self._times[step + 1]
            h = F.linear(x, self._from_x) + fixed
            h = h + self._convolved(batch, h, counts, step, embedded)
            for number, layer in enumerate(self._layers):
                h = self._through(layer, self._modulations[step][number], h, batch, (step, number), cos, sin)
            scale, shift = self._last[step]
            h = F.layer_norm(h, h.shape[-1:], scale, shift, 1e-6)
            x = x + (after - before) * F.linear(h, self._w["out_proj.weight"], self._w["out_proj.bias"])
            kept = (1 - (1 - self.config.acoustic_sigma_min) * after) * noise + after * clip
            x = torch.where(given, kept, x)
        for row, states, (looked, mixed) in zip(batch, embedded, ends, strict=True):
            row.state.embedded, row.state.looked, row.state.mixed = states, looked, mixed
            row.state.solved = row.span[1]
        return list(torch.where(given, clip, x).split(counts))

    def _convolved(
        self,
        batch: list[AcousticFrames],
        h: Tensor,
        counts: list[int],
        step: int,
        embedded: list[list[tuple[Tensor, Tensor]]],
    ) -> Tensor:
        """The positional convolutions of each stream with its earlier inputs. Appends the next earlier inputs to
        `embedded`."""
        parts = []
        back = self.config.acoustic_pos_kernel_size - 1
        for row, states, own in zip(batch, embedded, h.split(counts), strict=True):
            kept = row.state.embedded[step]
            inside = torch.cat([kept[0], own])
            between = torch.cat([kept[1], self._convolve("conv1", inside)])
            parts.append(self._convolve("conv2", between))
            states.append((inside[-back:].clone(), between[-back:].clone()))
        return torch.cat(parts)

    def _convolve(self, name: str, frames: Tensor) -> Tensor:
        weight, bias = self._w[f"input_embed.pos.{name}.weight"], self._w[f"input_embed.pos.{name}.bias"]
        groups = frames.shape[1] // weight.shape[1]
        return F.mish(F.conv1d(frames.t()[None], weight, bias, groups=groups))[0].t()

    def _through(
        self,
        layer: _TransformerLayer,
        modulation: _Modulation,
        h: Tensor,
        batch: list[AcousticFrames],
        place: tuple[int, int],
        cos: Tensor,
        sin: Tensor,
    ) -> Tensor:
        query, key, value = in_blocks(partial(layer.enter, modulation), h, cos, sin)
        y = self._attend(batch, place, query, key, value)
        (h,) = in_blocks(partial(layer.leave, modulation), h, y)
        return h

    def _attend(
        self, batch: list[AcousticFrames], place: tuple[int, int], query: Tensor, key: Tensor, value: Tensor
    ) -> Tensor:
        """(n, heads * head_dim): each frame attends to the clip's frames and to those of its own stream."""
        own, own_weight = self._attend_own(batch, place, query, key, value)
        at = 0
        for prompt, rows in groupby(batch, key=lambda row: row.state.prompt):
            stop = at + sum(len(row.noise) for row in rows)
            if prompt is not None and prompt.solved > 0:
                keys, values = prompt.memory[place][:, :, : prompt.solved]
                clip, clip_weight = attention(query[at:stop], keys, values)
                share = torch.sigmoid(clip_weight - own_weight[at:stop])
                own[at:stop] = torch.lerp(own[at:stop], clip, share[:, :, None])
            at = stop
        return own.flatten(1)

    def _attend_own(
        self, batch: list[AcousticFrames], place: tuple[int, int], query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        outputs, weights, at = [], [], 0
        for row in batch:
            start, stop = row.span
            first = row.state.first
            keys, values = row.state.memory[place]
            keys[:, start - first : stop - first] = key[at : at + stop - start].transpose(0, 1)
            values[:, start - first : stop - first] = value[at : at + stop - start].transpose(0, 1)
            while start < stop:
                border = min(stop, (start // self.chunk + 1) * self.chunk)
                heard = slice(0, border - first)
                y, weight = attention(query[at : at + border - start], keys[:, heard], values[:, heard])
                outputs.append(y)
                weights.append(weight)
                at += border - start
                start = border
        return torch.cat(outputs), torch.cat(weights)


class _SemanticPath:
    """From tokens to the mean (frames, mu_dim) that conditions the solver.

    Each token lasts several frames, which are equal before the upsampler's convolution of three taps mixes them, so the taps
    are summed in advance: the first frame of a token has two taps on the token before and one on its own, the second frame
    one and two, and the others all three on their own. The linear layers after the convolution are merged into one.
    """

    def __init__(self, weights: Weights, config: SoproModelConfig, precision: Precision) -> None:
        self._embeddings = weights["semantic_token_emb.weight"]
        self._ahead = config.acoustic_pre_lookahead_frames
        first, second = weights["semantic_prelook.conv1.weight"], weights["semantic_prelook.conv2.weight"]
        self._first = linear(_flat(first), weights["semantic_prelook.conv1.bias"], precision, rows=TOKEN_ROWS)
        self._second = linear(_flat(second), weights["semantic_prelook.conv2.bias"], precision, rows=TOKEN_ROWS)
        up = "semantic_upsampler"
        self._in = linear(
            weights[f"{up}.in_proj.weight"][:, :, 0], weights[f"{up}.in_proj.bias"], precision, rows=TOKEN_ROWS
        )
        taps = weights[f"{up}.mix.conv.weight"].unbind(-1)
        before = torch.cat([taps[0] + taps[1], taps[0], torch.zeros_like(taps[0])])
        own = torch.cat([taps[2], taps[1] + taps[2], taps[0] + taps[1] + taps[2]])
        self._mix = linear(
            torch.cat([before, own], dim=1), weights[f"{up}.mix.conv.bias"].repeat(3), precision, rows=TOKEN_ROWS
        )
        mean = weights["mu_proj.weight"][:, :, 0]
        self._mean = linear(
            mean, F.linear(weights[f"{up}.out_proj.bias"], mean, weights["mu_proj.bias"]), precision, rows=TOKEN_ROWS
        )
        self._mean_of_mixed = linear(mean @ weights[f"{up}.out_proj.weight"][:, :, 0], None, precision, rows=TOKEN_ROWS)

    def __call__(self, batch: Sequence[AcousticFrames]) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The packed means, and the inputs that each stream's next tokens look back at (`looked` and `mixed` of its
        state)."""
        counts = [len(row.tokens) for row in batch]
        latents = [self._latents(row) for row in batch]
        windows = torch.cat([_windows(latent, self._ahead + 1) for latent in latents])
        looked = F.leaky_relu(self._first(windows), 0.1).split(counts)
        followed = [torch.cat([row.state.looked, own]) for row, own in zip(batch, looked, strict=True)]
        x = torch.cat([latent[:count] for latent, count in zip(latents, counts, strict=True)])
        x = x + self._second(torch.cat([_windows(own, 3) for own in followed]))
        h = F.silu(self._in(x)).split(counts)
        heard = [torch.cat([row.state.mixed, own]) for row, own in zip(batch, h, strict=True)]
        mixed = F.silu(self._mix(torch.cat([_windows(own, 2) for own in heard])))
        means = self._mean(x)[:, None] + self._mean_of_mixed(mixed.view(3 * len(x), -1)).view(len(x), 3, -1)
        ends = [(own[-2:].clone(), before[-1:].clone()) for own, before in zip(followed, heard, strict=True)]
        frames = sum(len(row.noise) for row in batch) // len(x)
        return means[:, [0, 1] + [2] * (frames - 2)].flatten(0, 1), ends

    def _latents(self, row: AcousticFrames) -> Tensor:
        known = self._embeddings[torch.cat([row.tokens, row.ahead[: self._ahead]])]
        return F.pad(known, (0, 0, 0, len(row.tokens) + self._ahead - len(known)))


def _flat(weight: Tensor) -> Tensor:
    """A convolution's (out, in, taps) weight as (out, taps * in), for `_windows`."""
    return weight.transpose(1, 2).flatten(1)


def _windows(frames: Tensor, taps: int) -> Tensor:
    """(n, dim) to (n - taps + 1, taps * dim): each row with the rows that follow it."""
    return torch.cat([frames[tap : len(frames) - taps + 1 + tap] for tap in range(taps)], dim=1)


def attention(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of (n, heads, dim) queries to (heads, m, dim) keys: the result (n, heads, dim), and the log-sum-exp of the
    scores (n, heads), by which results over several sets of keys are combined."""
    query = query.transpose(0, 1)[None]
    if query.device.type == "cpu":
        y, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, keys[None], values[None])
        return y[0].transpose(0, 1), weight.view(query.shape[:3])[0].t()
    scores = query @ keys[None].transpose(-1, -2) / math.sqrt(query.shape[-1])
    y = torch.softmax(scores, dim=-1) @ values[None]
    return y[0].transpose(0, 1), scores.logsumexp(-1)[0].t()


def _time_grid(steps: int, sway: float) -> list[float]:
    """The solver's times from 0 to 1; a negative `sway` makes them denser at the start (https://arxiv.org/abs/2410.06885)."""
    times = torch.linspace(0, 1, steps + 1)
    return [float(t) for t in times + sway * (torch.cos(0.5 * math.pi * times) - 1 + times)]


def _sinusoids(time: float, dim: int) -> Tensor:
    half = max(1, dim // 2)
    frequencies = torch.exp(torch.arange(half) * (-math.log(10_000.0) / max(1, half - 1)))
    angles = 1000.0 * time * frequencies
    return torch.cat([angles.sin(), angles.cos()])
