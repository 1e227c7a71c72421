"""IndexTTS's language model: prompt embeddings to acoustic codes, for many streams at once.

It is a GPT-2 with learned positions, one table for text and one for codes, which are added to the embeddings. The state of a
stream is its slot in the cache and its codes so far; this module has only weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.engines.indextts.config import IndexDecoderConfig
from deployments.engines.lm.checkpoint import Weights
from deployments.engines.lm.feed_forward import FeedForward
from deployments.engines.lm.kv_cache import KvCache, Slot
from deployments.engines.lm.linear import Precision, cache_dtype, linear
from deployments.engines.lm.sampler import NEVER
from deployments.engines.lm.transformer import prefill, stack, step

BLOCK_POSITIONS = 64

FILLER = 1
"""The code that stands for the prompt where the package counts repetitions. It is a real code, which so counts as
repeated."""


class IndexLayerNorm(nn.Module):
    """Layer normalisation with a weight and a bias."""

    def __init__(self, weights: Weights, prefix: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(weights[f"{prefix}.weight"], requires_grad=False)
        self.bias = nn.Parameter(weights[f"{prefix}.bias"], requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, dim) to (n, dim)."""
        return F.layer_norm(x, (x.shape[-1],), self.weight, self.bias, 1e-5)


class IndexBlock(nn.Module):
    """One transformer block of GPT-2."""

    def __init__(self, weights: Weights, prefix: str, heads: int, precision: Precision) -> None:
        super().__init__()
        self.heads = heads

        def projection(name: str) -> nn.Module:
            # GPT-2 stores its weights as (inputs, outputs).
            return linear(weights[f"{prefix}.{name}.weight"].t(), weights[f"{prefix}.{name}.bias"], precision)

        self.attention_norm = IndexLayerNorm(weights, f"{prefix}.ln_1")
        self.feed_forward_norm = IndexLayerNorm(weights, f"{prefix}.ln_2")
        self.qkv, self.out = projection("attn.c_attn"), projection("attn.c_proj")
        self.feed_forward = FeedForward(projection("mlp.c_fc"), projection("mlp.c_proj"), "tanh")

    def attention_input(self, x: Tensor, *places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (n, heads, head_dim) of (n, dim)."""
        projected = self.qkv(self.attention_norm(x)).view(len(x), 3, self.heads, -1)
        query, key, value = projected.unbind(1)
        return query, key, value

    def rest(self, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the layer: (n, dim) from `x` and the attended values (n, dim)."""
        x = x + self.out(attended)
        added: Tensor = self.feed_forward(self.feed_forward_norm(x))
        return x + added


class IndexDecoder(nn.Module):
    """The weights of the language model over codes, and its two passes."""

    def __init__(self, weights: Weights, config: IndexDecoderConfig, precision: Precision) -> None:
        super().__init__()
        self.config = config
        self.precision = precision
        self.codes = nn.Parameter(weights["mel_embedding.weight"], requires_grad=False)
        self.places = nn.Parameter(weights["mel_pos_embedding.emb.weight"], requires_grad=False)
        self.blocks = nn.ModuleList(
            [IndexBlock(weights, f"gpt.h.{number}", config.heads, precision) for number in range(config.layers)]
        )
        self.stack_norm, self.norm = IndexLayerNorm(weights, "gpt.ln_f"), IndexLayerNorm(weights, "final_norm")
        bias = weights["mel_head.bias"].clone()
        bias[config.start_mel_token] = NEVER
        self.head = linear(weights["mel_head.weight"], bias, precision)

    def new_cache(self, slots: int, capacity: int) -> KvCache:
        """A cache of `slots` rows of at least `capacity` positions."""
        config, device = self.config, self.codes.device
        return KvCache(
            layers=config.layers,
            slots=slots,
            heads=config.heads,
            capacity=_whole_blocks(capacity + 1) - 1,
            head_dim=config.model_dim // config.heads,
            dtype=cache_dtype(self.precision, device.type),
            device=str(device),
        )

    def prefill(self, prompts: Sequence[Tensor], slots: Sequence[Slot], cache: KvCache) -> Tensor:
        """Prefills the next parts (n_i, dim) of prompts; gives the logits (streams, codes) after them."""
        lengths = [len(prompt) for prompt in prompts]
        return self._logits(prefill(stack(self.blocks), torch.cat(list(prompts)), lengths, slots, cache))

    def with_begin_code(self, prompt: Tensor) -> Tensor:
        """The prompt (n, dim) with the begin code after it."""
        return torch.cat([prompt, (self.codes[self.config.start_mel_token] + self.places[0])[None]])

    def logits(self, codes: Tensor, said: Tensor, positions: Tensor, cache: KvCache) -> Tensor:
        """The logits (batch, codes) after one more code of the cache's first rows.

        `codes`, `said` and `positions` are (batch,) int64: the code, its number in the piece (from 1), and its position in
        the cache.
        """
        x = self.codes[codes] + self.places[said]
        length = _whole_blocks(int(positions.max()) + 1)
        return self._logits(step(stack(self.blocks), x, positions, cache, length))

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.stack_norm(x)))
        return logits

    def initially_repeated(self) -> Tensor:
        """(codes,) boolean: the codes that count as repeated at the start of a piece."""
        said = torch.zeros(self.config.number_mel_codes, dtype=torch.bool, device=self.codes.device)
        said[[FILLER, self.config.start_mel_token]] = True
        return said


def _whole_blocks(length: int) -> int:
    """Rounds up to whole blocks: attention adds in another order in a partial block, and a row's sum must not depend on the
    length of the other rows."""
    return -(-length // BLOCK_POSITIONS) * BLOCK_POSITIONS
