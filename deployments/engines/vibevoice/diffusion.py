"""VibeVoice's diffusion head: the language model's hidden state of a frame to the frame's latent.

The sampler is second-order DPM-Solver++ (https://arxiv.org/abs/2211.01095) over the cosine schedule. Its coefficients are the
same for every frame and computed once. The head's projections of the condition are computed for all solver steps together, so
that these weights are read once for each frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.engines.lm.checkpoint import Weights
from deployments.engines.lm.linear import AnyPrecision, RowCounts, linear
from deployments.engines.lm.rotary import rms_norm
from deployments.engines.vibevoice.config import DiffusionHeadShape

TRAINED_STEPS = 1000
MOST_BETA = 0.999
ROWS: RowCounts = {2: 1.0, 16: 1.0}
"""One stream and eight: each has two rows, with the text and without."""


@dataclass(frozen=True, slots=True)
class SolverStep:
    """One step at `time`: the clean latent is `alpha * x - sigma * v`; the next x is `keep * x` plus `clean` times this clean
    latent plus `before` times the previous one."""

    time: int
    alpha: float
    sigma: float
    keep: float
    clean: float
    before: float


def schedule(steps: int) -> list[SolverStep]:
    """The sampler's steps, from noise to the latent."""
    share = np.arange(TRAINED_STEPS + 1) / TRAINED_STEPS
    bars = np.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2
    left = np.cumprod(1 - np.minimum(1 - bars[1:] / bars[:-1], MOST_BETA))
    times = np.linspace(0, TRAINED_STEPS - 1, steps + 1).round()[::-1][:-1].astype(np.int64)
    alphas, sigmas = np.append(np.sqrt(left[times]), 1.0), np.append(np.sqrt(1 - left[times]), 0.0)
    with np.errstate(divide="ignore"):
        logs = np.log(alphas) - np.log(sigmas)
    made = []
    for number, time in enumerate(times):
        stride = logs[number + 1] - logs[number]
        gain = alphas[number + 1] * -np.expm1(-stride)
        # The last step ends without noise, where only the first order is defined; the first step has no previous latent.
        first_order = number in (0, steps - 1)
        tilt = 0.0 if first_order else 0.5 * gain * stride / (logs[number] - logs[number - 1])
        keep = sigmas[number + 1] / sigmas[number]
        made.append(
            SolverStep(
                int(time), float(alphas[number]), float(sigmas[number]), float(keep), float(gain + tilt), -float(tilt)
            )
        )
    return made


def _at_all(steps: int) -> RowCounts:
    return {steps * count: weight for count, weight in ROWS.items()}


class _DiffusionLayer(nn.Module):
    """One layer: a feed-forward network with shift, scale and gate from the condition."""

    def __init__(self, weights: Weights, name: str, eps: float, precision: AnyPrecision, steps: int) -> None:
        """The projections of the condition are computed for all `steps` together."""
        super().__init__()
        self.eps = eps
        self.norm = nn.Parameter(weights[f"{name}.norm.weight"].float(), requires_grad=False)
        gate, up = (weights[f"{name}.ffn.{part}_proj.weight"].float() for part in ("gate", "up"))
        self.gate_up = linear(torch.cat([gate, up]), None, precision, rows=ROWS)
        self.down = linear(weights[f"{name}.ffn.down_proj.weight"].float(), None, precision, rows=ROWS)
        self.condition = linear(weights[f"{name}.linear.weight"].float(), None, precision, rows=_at_all(steps))

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """(n, dim) and the projected condition (n, 3 * dim) to (n, dim)."""
        shift, scale, gate = condition.chunk(3, dim=-1)
        inputs = torch.addcmul(shift, rms_norm(h, self.norm, self.eps), 1 + scale)
        opened, up = self.gate_up(inputs).chunk(2, dim=-1)
        return torch.addcmul(h, gate, self.down(F.silu(opened) * up))


class DiffusionHead(nn.Module):
    """The weights of the head, and the sampler with classifier-free guidance (https://arxiv.org/abs/2207.12598)."""

    times: Tensor

    def __init__(
        self,
        weights: Weights,
        name: str,
        shape: DiffusionHeadShape,
        precision: AnyPrecision,
        *,
        steps: int,
        guidance: float,
    ) -> None:
        super().__init__()
        self.steps, self.guidance, self.eps = schedule(steps), guidance, shape.eps
        self.layers = nn.ModuleList(
            [
                _DiffusionLayer(weights, f"{name}.layers.{number}", shape.eps, precision, steps)
                for number in range(shape.layers)
            ]
        )
        self.enter = linear(weights[f"{name}.noisy_images_proj.weight"].float(), None, "float32", rows=ROWS)
        self.condition = linear(weights[f"{name}.cond_proj.weight"].float(), None, precision, rows=ROWS)
        last = weights[f"{name}.final_layer.linear_1.weight"].float()
        self.last_condition = linear(last, None, precision, rows=_at_all(steps))
        self.leave = linear(weights[f"{name}.final_layer.linear_2.weight"].float(), None, "float32", rows=ROWS)
        self.register_buffer("times", self._time_embeddings(weights, name, shape))

    def _time_embeddings(self, weights: Weights, name: str, shape: DiffusionHeadShape) -> Tensor:
        half = shape.frequencies // 2
        frequencies = torch.exp(-math.log(shape.longest_period) * torch.arange(half, dtype=torch.float32) / half)
        angles = torch.tensor([float(step.time) for step in self.steps])[:, None] * frequencies
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        first, second = (weights[f"{name}.timestep_proj.fc{number}.weight"].float() for number in (1, 2))
        return F.linear(F.silu(F.linear(waves, first)), second)

    def forward(self, hidden: Tensor, noise: Tensor) -> Tensor:
        """Noise (batch, latent) to latents (batch, latent).

        `hidden` (2 * batch, dim) are the language model's states, alternately with the text and without.
        """
        steps, rows = len(self.steps), hidden.shape[0]
        condition = F.silu(self.condition(hidden)[None] + self.times[:, None]).flatten(0, 1)
        conditions = [layer.condition(condition).view(steps, rows, -1) for layer in self.layers]  # type: ignore[operator]
        last = self.last_condition(condition).view(steps, rows, -1)
        x, before = noise, torch.zeros_like(noise)
        for number, step in enumerate(self.steps):
            h = self.enter(x).repeat_interleave(2, dim=0)
            for layer, made in zip(self.layers, conditions, strict=True):
                h = layer(h, made[number])
            shift, scale = last[number].chunk(2, dim=-1)
            speed = self.leave(torch.addcmul(shift, rms_norm(h, None, self.eps), 1 + scale))
            with_text, without = speed.view(len(noise), 2, -1).unbind(1)
            clean = step.alpha * x - step.sigma * torch.lerp(without, with_text, self.guidance)
            x, before = step.keep * x + step.clean * clean + step.before * before, clean
        return x
