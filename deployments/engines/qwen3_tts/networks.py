"""Qwen3-TTS's networks, and the step that generates one frame of every stream.

The talker gives a frame's first code. The code predictor, a small decoder that begins anew for each frame, gives the others
one after the other, and the codec turns them into samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.engines.graphs import StepInput
from deployments.engines.lm.checkpoint import Weights
from deployments.engines.lm.kv_cache import KvCache
from deployments.engines.lm.linear import AnyPrecision, linear
from deployments.engines.lm.llama import LlamaStack
from deployments.engines.lm.sampler import NEVER, Sampling, choose, forbid, penalized
from deployments.engines.qwen3_tts.codec import CodecDecoder
from deployments.engines.qwen3_tts.config import CONTROL_CODES, Qwen3TtsConfig

FEWEST_FRAMES = 2
"""Frames before the model may end a piece."""


class Qwen3TtsCaches(NamedTuple):
    """The caches of all streams: the talker's, the code predictor's and the codec's. The predictor's holds one frame, so its
    rows belong to no stream."""

    talker: KvCache
    predictor: KvCache
    codec: KvCache


@dataclass(frozen=True, slots=True)
class Qwen3TtsFrame:
    """One frame of every stream: codes (batch, groups), samples (batch, hop), and for the next frame the embedding (batch,
    dim) and the past inputs of the codec (batch, state_size)."""

    codes: Tensor
    samples: Tensor
    embedding: Tensor
    state: Tensor


class TextProjection(nn.Module):
    """The embeddings of text tokens, in the talker's dimension."""

    table: Tensor

    def __init__(self, weights: Weights, precision: AnyPrecision) -> None:
        super().__init__()
        table = weights["talker.model.text_embedding.weight"]
        self.register_buffer("table", table.float() if precision == "float32" else table.to(torch.bfloat16))
        name = "talker.text_projection"
        self.first, self.second = (
            linear(weights[f"{name}.{part}.weight"].float(), weights[f"{name}.{part}.bias"].float(), precision)
            for part in ("linear_fc1", "linear_fc2")
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, dim) of tokens (n,) int64."""
        made: Tensor = self.second(F.silu(self.first(self.table[tokens].float())))
        return made


class CodePredictor(nn.Module):
    """The codes of a frame after the first, one after the other."""

    embeddings: Tensor

    def __init__(self, weights: Weights, config: Qwen3TtsConfig, precision: AnyPrecision) -> None:
        super().__init__()
        name, later = "talker.code_predictor", range(config.groups - 1)
        tables = [weights[f"{name}.model.codec_embedding.{number}.weight"].float() for number in later]
        self.register_buffer("embeddings", torch.stack(tables))
        self.heads = nn.ModuleList(
            [linear(weights[f"{name}.lm_head.{number}.weight"].float(), None, precision) for number in later]
        )
        self.entry = _entry(weights, f"{name}.small_to_mtp_projection", precision)
        self.decoder = LlamaStack(weights, f"{name}.model", config.predictor, precision, capacity=config.groups)

    def position(self, x: Tensor, number: int, cache: KvCache) -> Tensor:
        """Hidden states (batch, dim) of the frame's position `number` for inputs (batch, talker dim)."""
        places = torch.full((len(x),), number, dtype=torch.int64, device=x.device)
        return self.decoder.step(self.entry(x), places, cache, number + 1)


def _entry(weights: Weights, name: str, precision: AnyPrecision) -> nn.Module:
    """The projection from the talker's dimension, where it differs from the predictor's."""
    if f"{name}.weight" not in weights:
        return nn.Identity()
    return linear(weights[f"{name}.weight"].float(), weights[f"{name}.bias"].float(), precision)


class Qwen3TtsNetworks(nn.Module):
    """The weights of a model."""

    codes: Tensor
    never: Tensor
    text_pad: Tensor
    """(1, dim): what is added to codes where no text is left."""

    def __init__(
        self,
        weights: Weights,
        codec_weights: Weights,
        config: Qwen3TtsConfig,
        precision: AnyPrecision,
        *,
        capacity: int,
        most_frames: int,
    ) -> None:
        """`capacity` is the most positions of a piece of text, for its prompt and its frames, of which `most_frames` at
        most."""
        super().__init__()
        self.config = config
        self.text = TextProjection(weights, precision)
        self.register_buffer("text_pad", self.text(torch.tensor([config.marks.text_pad])))
        self.register_buffer("codes", weights["talker.model.codec_embedding.weight"].float())
        self.register_buffer("never", _forbidden(config))
        self.talker = LlamaStack(weights, "talker.model", config.talker, precision, capacity)
        self.head = linear(weights["talker.codec_head.weight"].float(), None, precision)
        self.predictor = CodePredictor(weights, config, precision)
        self.codec = CodecDecoder(codec_weights, config.codec, precision, most_frames)

    def new_caches(self, slots: int, talker: KvCache) -> Qwen3TtsCaches:
        """Caches of `slots` rows, beside that of the talker."""
        return Qwen3TtsCaches(
            talker,
            self.predictor.decoder.new_cache(slots),
            self.codec.transformer.new_cache(slots),
        )

    def frame(self, inputs: Mapping[str, Tensor], caches: Qwen3TtsCaches, length: int) -> Tensor:
        """One frame of the streams in the caches' first rows.

        The results are packed into one tensor (batch, groups + hop + dim + state_size); `unpack` splits it.
        """
        hidden = self.talker.step(inputs["embedding"], inputs["positions"], caches.talker, length)
        logits = self.first_logits(hidden, inputs["said"], inputs["frames"])
        first = self.choose(logits, inputs["draws"][:, 0], self.config.sampling.first)
        codes, embedding = self._other_codes(hidden, first, inputs["draws"], caches.predictor)
        # The end token is not a code of the codec, so its frame is not decoded.
        heard = codes.clamp_max(self.codec.codebooks.tables.shape[1] - 1)
        sound, state = self.codec(heard, inputs["frames"], inputs["state"], caches.codec)
        following = embedding + self.text_pad
        return torch.cat([codes.float(), sound, following, state], dim=1)

    def first_logits(self, hidden: Tensor, said: Tensor, frames: Tensor) -> Tensor:
        """The logits (batch, codes) of a frame's first code; `said` (batch, codes) are the first codes so far."""
        logits = penalized(self.head(hidden), said, self.config.sampling.repetition_penalty)
        logits = torch.where(self.never, NEVER, logits)
        return forbid(logits, self.config.marks.end, frames >= FEWEST_FRAMES)

    def choose(self, logits: Tensor, draws: Tensor, sampling: Sampling) -> Tensor:
        """The next code of each row, (batch,) int64."""
        return choose(logits, draws, sampling)

    def _other_codes(self, hidden: Tensor, first: Tensor, draws: Tensor, cache: KvCache) -> tuple[Tensor, Tensor]:
        """All codes (batch, groups) of the frame, and the sum (batch, dim) of their embeddings."""
        predictor, codes, embedding = self.predictor, [first], self.codes[first]
        predictor.position(hidden, 0, cache)
        entered = embedding
        for number, head in enumerate(predictor.heads):
            logits = head(predictor.position(entered, number + 1, cache))
            codes.append(self.choose(logits, draws[:, number + 1], self.config.sampling.others))
            entered = predictor.embeddings[number, codes[-1]]
            embedding = embedding + entered
        return torch.stack(codes, dim=1), embedding

    def unpack(self, packed: Tensor) -> Qwen3TtsFrame:
        """Splits the result of `frame`."""
        sizes = [self.config.groups, self.config.codec.hop, self.config.talker.dim, self.codec.state_size]
        codes, samples, embedding, state = packed.split(sizes, dim=1)
        return Qwen3TtsFrame(codes.long(), samples, embedding, state)

    def frame_inputs(self, caches: Qwen3TtsCaches) -> dict[str, StepInput]:
        """The inputs of `frame`. An unused row works on the caches' scratch positions."""
        return {
            "embedding": StepInput((self.config.talker.dim,), torch.float32),
            "positions": StepInput((), torch.int64, neutral=caches.talker.scratch),
            "frames": StepInput((), torch.int64, neutral=self.codec.transformer.most_frames),
            "said": StepInput((self.config.codes,), torch.bool),
            "draws": StepInput((self.config.groups,), torch.float32),
            "state": StepInput((self.codec.state_size,), torch.float32),
        }


def _forbidden(config: Qwen3TtsConfig) -> Tensor:
    """(codes,) boolean: the marks, but for the end."""
    marks = torch.arange(config.codes) >= config.codes - CONTROL_CODES
    marks[config.marks.end] = False
    return marks
