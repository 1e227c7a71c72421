"""The decoder of Llama, Qwen2 and Qwen3, with the weight names of the Hugging Face layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.engines.lm.checkpoint import Weights
from deployments.engines.lm.kv_cache import KvCache, Slot
from deployments.engines.lm.linear import STEP_ROWS, AnyPrecision, RowCounts, cache_dtype, linear
from deployments.engines.lm.rotary import RotaryStack, rms_norm, rotate
from deployments.engines.lm.transformer import stack
from deployments.errors import fail


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The sizes of a decoder."""

    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    base: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> LlamaShape:
        """From a `config.json`. Raises `MotetError` (unsupported) for scaled rotary positions and for sliding-window
        attention."""
        if config.get("use_sliding_window"):
            cause = "This decoder looks at a sliding window of its past (use_sliding_window)."
            raise fail("unsupported", cause, "Use a model that looks at all of it.")
        heads = int(config["num_attention_heads"])
        return cls(
            dim=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
            eps=float(config.get("rms_norm_eps", 1e-6)),
            base=_rotary_base(config),
        )


def _rotary_base(config: Mapping[str, Any]) -> float:
    """The base of plain rotary positions. Older files have in `rope_scaling` what newer files have in `rope_parameters`."""
    rotary: Mapping[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        rotary = config.get(key) or rotary
        kind = rotary.get("rope_type", rotary.get("type", "default"))
        if kind != "default" or any(isinstance(value, Mapping) for value in rotary.values()):
            cause = f"This decoder does not have plain rotary positions: its config.json says {key}: {dict(rotary)}."
            raise fail("unsupported", cause, "Use a model without it; its text would be spoken wrong otherwise.")
    return float(rotary.get("rope_theta", config.get("rope_theta", 10_000.0)))


class LlamaLayer(nn.Module):
    """One decoder layer without its attention. Projections have a bias, and the heads of queries and keys a norm, if the
    weights have one."""

    def __init__(
        self, weights: Weights, prefix: str, shape: LlamaShape, precision: AnyPrecision, rows: RowCounts = STEP_ROWS
    ) -> None:
        super().__init__()
        self.shape = shape

        def stacked(*names: str) -> nn.Module:
            weight = torch.cat([weights[f"{prefix}.{name}.weight"] for name in names])
            biases = [weights[f"{prefix}.{name}.bias"] for name in names if f"{prefix}.{name}.bias" in weights]
            return linear(weight.float(), torch.cat(biases).float() if biases else None, precision, rows=rows)

        def norm(name: str) -> nn.Parameter:
            return nn.Parameter(weights[f"{prefix}.{name}.weight"].float(), requires_grad=False)

        self.attention_norm, self.feed_forward_norm = norm("input_layernorm"), norm("post_attention_layernorm")
        self.has_head_norms = f"{prefix}.self_attn.q_norm.weight" in weights
        if self.has_head_norms:
            self.query_norm, self.key_norm = norm("self_attn.q_norm"), norm("self_attn.k_norm")
        self.qkv = stacked("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.out = stacked("self_attn.o_proj")
        self.gate_up = stacked("mlp.gate_proj", "mlp.up_proj")
        self.down = stacked("mlp.down_proj")

    def attention_input(self, x: Tensor, *places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (n, heads, head_dim), keys and values (n, kv_heads, head_dim) of (n, dim); `places` are the cosines and
        sines, (n, 1, head_dim)."""
        shape = self.shape
        projected = self.qkv(rms_norm(x, self.attention_norm, shape.eps)).view(x.shape[0], -1, shape.head_dim)
        query, key, value = projected.split([shape.heads, shape.kv_heads, shape.kv_heads], dim=1)
        if self.has_head_norms:
            query, key = rms_norm(query, self.query_norm, shape.eps), rms_norm(key, self.key_norm, shape.eps)
        return rotate(query, *places), rotate(key, *places), value

    def rest(self, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the layer: (n, dim) from `x` and the attended values."""
        x = x + self.out(attended)
        gate, up = self.gate_up(rms_norm(x, self.feed_forward_norm, self.shape.eps)).chunk(2, dim=-1)
        added: Tensor = self.down(F.silu(gate) * up)
        return x + added


class LlamaStack(nn.Module):
    """All layers and the final norm, with the prefill, step and window passes. Embeddings and heads belong to the model."""

    def __init__(
        self,
        weights: Weights,
        prefix: str,
        shape: LlamaShape,
        precision: AnyPrecision,
        capacity: int,
        rows: RowCounts = STEP_ROWS,
        *,
        is_normed: bool = True,
    ) -> None:
        """`capacity` is the most positions of a stream; `rows` are the numbers of rows that the layers are called with. The
        lower part of a decoder that was cut in two is not normed."""
        super().__init__()
        self.shape = shape
        self.layers = nn.ModuleList(
            [LlamaLayer(weights, f"{prefix}.layers.{number}", shape, precision, rows) for number in range(shape.layers)]
        )
        self.norm = nn.Parameter(weights[f"{prefix}.norm.weight"].float(), requires_grad=False) if is_normed else None
        self.stack = RotaryStack(
            stack(self.layers),
            kv_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            capacity=capacity,
            base=shape.base,
            dtype=cache_dtype(precision, next(self.layers.parameters()).device.type),
        )

    def new_cache(self, slots: int) -> KvCache:
        """A cache of `slots` rows."""
        return self.stack.new_cache(slots)

    def prefill(self, prompts: Sequence[Tensor], slots: Sequence[Slot], cache: KvCache) -> Tensor:
        """Prefills the next parts (n_i, dim) of prompts, packed; gives the normed (streams, dim) at their ends."""
        return self._normed(self.stack.prefill(prompts, slots, cache))

    def step(self, x: Tensor, positions: Tensor, cache: KvCache, length: int) -> Tensor:
        """One more position of the cache's first rows: (batch, dim) to (batch, dim), normed."""
        return self._normed(self.stack.step(x, positions, cache, length))

    def window(self, x: Tensor, rows: Tensor, positions: Tensor, cache: KvCache, length: int) -> Tensor:
        """Several more positions (batch, n) of some `rows` of the cache: (batch, n, dim) to (batch, n, dim), normed."""
        return self._normed(self.stack.window(x, rows, positions, cache, length))

    def _normed(self, x: Tensor) -> Tensor:
        return x if self.norm is None else rms_norm(x, self.norm, self.shape.eps)
