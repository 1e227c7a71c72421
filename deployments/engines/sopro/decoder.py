"""Sopro's language model: text and a voice's tokens to semantic tokens, for many streams at once.

The state of a stream is its slot in the cache; this module has only weights. `prefill` reads the prompts of all new streams,
packed without padding; `logits` then gives one step of every row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.engines.graphs import StepInput
from deployments.engines.lm.checkpoint import Weights
from deployments.engines.lm.kv_cache import KvCache, Slot
from deployments.engines.lm.linear import Precision, linear
from deployments.engines.lm.rotary import RotaryStack, rms_norm, rotate
from deployments.engines.lm.sampler import NEVER, Sampling, choose, forbid
from deployments.engines.lm.transformer import stack
from deployments.engines.sopro.config import SoproModelConfig


class SoproBlock(nn.Module):
    """One transformer block. The layer scales are merged into the last linear layer of each half."""

    def __init__(self, weights: Weights, prefix: str, config: SoproModelConfig, precision: Precision) -> None:
        super().__init__()
        self.heads = config.ar_heads
        self.kv_heads = config.ar_kv_heads or config.ar_heads
        self.head_dim = config.ar_model_dim // config.ar_heads

        def weight(name: str) -> Tensor:
            return weights[f"{prefix}.{name}"]

        self.attention_norm = nn.Parameter(weight("attn_norm.weight"), requires_grad=False)
        self.feed_forward_norm = nn.Parameter(weight("ffn_norm.weight"), requires_grad=False)
        ones = torch.ones(self.head_dim)
        normed = config.ar_qk_rms_norm
        self.query_norm = nn.Parameter(weight("attn.q_norm.weight") if normed else ones, requires_grad=False)
        self.key_norm = nn.Parameter(weight("attn.k_norm.weight") if normed else ones, requires_grad=False)
        self.normed = normed
        qkv = torch.cat([weight(f"attn.{name}_proj.weight") for name in "qkv"])
        gate_up = torch.cat([weight("ffn.gate_proj.weight"), weight("ffn.up_proj.weight")])
        self.qkv = linear(qkv, None, precision)
        self.out = linear(weight("attn_scale.scale")[:, None] * weight("attn.out_proj.weight"), None, precision)
        self.gate_up = linear(gate_up, None, precision)
        self.down = linear(weight("ffn_scale.scale")[:, None] * weight("ffn.down_proj.weight"), None, precision)

    def attention_input(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (n, heads, head_dim), keys and values (n, kv_heads, head_dim) of (n, dim)."""
        projected = self.qkv(rms_norm(x, self.attention_norm)).view(x.shape[0], -1, self.head_dim)
        query, key, value = projected.split([self.heads, self.kv_heads, self.kv_heads], dim=1)
        if self.normed:
            query, key = rms_norm(query, self.query_norm), rms_norm(key, self.key_norm)
        return rotate(query, cos, sin), rotate(key, cos, sin), value

    def rest(self, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the layer: (n, dim) from `x` and the attended values."""
        x = x + self.out(attended)
        gate, up = self.gate_up(rms_norm(x, self.feed_forward_norm)).chunk(2, dim=-1)
        added: Tensor = self.down(F.silu(gate) * up)
        return x + added


class SoproDecoder(nn.Module):
    """The weights of the language model, and its two passes."""

    embeddings: Tensor
    text_embeddings: Tensor

    def __init__(self, weights: Weights, config: SoproModelConfig, precision: Precision, longest: int) -> None:
        """`longest` is the most positions of a stream."""
        super().__init__()
        self.config = config
        embeddings = F.linear(
            weights["semantic_tok_emb.weight"], weights["sem_in_proj.weight"], weights["sem_in_proj.bias"]
        )
        self.register_buffer("embeddings", embeddings)
        self.register_buffer("text_embeddings", weights["text_tok_emb.weight"])
        names = [f"ar_prior.temporal.layers.{number}" for number in range(config.ar_blocks)]
        self.blocks = nn.ModuleList([SoproBlock(weights, name, config, precision) for name in names])
        self.norm = nn.Parameter(weights["ar_prior.out_norm.weight"], requires_grad=False)
        bias = weights["ar_prior.token_head.bias"].clone()
        bias[config.bos] = NEVER
        self.head = linear(weights["ar_prior.token_head.weight"], bias, precision)
        self.stack = RotaryStack(
            stack(self.blocks),
            kv_heads=config.ar_kv_heads or config.ar_heads,
            head_dim=config.ar_model_dim // config.ar_heads,
            capacity=longest,
        )
        self.style = {name: tensor for name, tensor in weights.items() if name.startswith("style_prefix.")}

    def new_cache(self, slots: int) -> KvCache:
        """A cache of `slots` rows."""
        return self.stack.new_cache(slots)

    def style_prefix(self, tokens: Tensor) -> Tensor:
        """The tokens (n,) of a clip to the prefix embeddings (style_prefix_tokens, dim) that carry the style of the voice."""
        weights, heads = self.style, self.config.ar_heads
        queries = weights["style_prefix.queries"]
        heard = rms_norm(self.embeddings[tokens], weights["style_prefix.kv_norm.weight"])

        def split(x: Tensor, name: str) -> Tensor:
            return F.linear(x, weights[f"style_prefix.{name}_proj.weight"]).view(len(x), heads, -1).transpose(0, 1)

        y = F.scaled_dot_product_attention(split(queries, "q"), split(heard, "k"), split(heard, "v"))
        y = F.linear(y.transpose(0, 1).flatten(1), weights["style_prefix.out_proj.weight"])
        return rms_norm(queries + y, weights["style_prefix.out_norm.weight"])

    def prompt(self, style: Tensor, text: Tensor, tokens: Tensor) -> Tensor:
        """The prompt embeddings (n, dim) of a stream: style prefix, text, the clip's tokens, begin token."""
        begin = self.embeddings[self.config.bos :][:1]
        return torch.cat([style, self.text_embeddings[text], self.embeddings[tokens], begin])

    def prefill(self, prompts: Sequence[Tensor], slots: Sequence[Slot], cache: KvCache) -> Tensor:
        """Prefills prompts (n_i, dim), packed; gives the logits (streams, vocabulary) after them."""
        logits: Tensor = self.head(rms_norm(self.stack.prefill(prompts, slots, cache), self.norm))
        return logits

    def logits(self, tokens: Tensor, positions: Tensor, cache: KvCache, length: int) -> Tensor:
        """The logits (batch, vocabulary) after one more token of the cache's first rows, attending to `length` positions."""
        x = self.stack.step(self.embeddings[tokens], positions, cache, length)
        logits: Tensor = self.head(rms_norm(x, self.norm))
        return logits

    def pick(self, logits: Tensor, may_end: Tensor, draws: Tensor, sampling: Sampling) -> Tensor:
        """The next tokens (batch,); the end token only where `may_end`."""
        return choose(forbid(logits, self.config.eos, may_end), draws, sampling)

    def step_inputs(self, cache: KvCache) -> dict[str, StepInput]:
        """The inputs of a captured step. An unused row works on the cache's scratch position."""
        return {
            "tokens": StepInput((), torch.int64),
            "positions": StepInput((), torch.int64, neutral=cache.scratch),
            "may_end": StepInput((), torch.bool),
            "draws": StepInput((), torch.float32),
        }
