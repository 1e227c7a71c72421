"""VibeVoice's networks, and the step that generates one frame of every stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deployments.engines.graphs import StepInput
from deployments.engines.lm.checkpoint import Weights
from deployments.engines.lm.kv_cache import KvCache
from deployments.engines.lm.linear import AnyPrecision, RowCounts
from deployments.engines.lm.llama import LlamaStack
from deployments.engines.vibevoice.codec import decoder, encode, encoder
from deployments.engines.vibevoice.config import VibeVoiceConfig
from deployments.engines.vibevoice.connector import Connector
from deployments.engines.vibevoice.diffusion import DiffusionHead

STEP_ROWS: RowCounts = {2: 1.0, 16: 1.0, 128: 0.25}
"""Rows of the language model: a stream has two, with its text and without."""


@dataclass(frozen=True, slots=True)
class VibeVoiceFrame:
    """One frame of every stream: the index of the chosen token in `choices` (batch,), samples (batch, hop), and the input of
    the next frame: an embedding (batch, dim) and the past inputs of the codec (batch, state_size)."""

    choice: Tensor
    samples: Tensor
    embedding: Tensor
    state: Tensor


class VibeVoiceNetworks(nn.Module):
    """The weights of a model."""

    embeddings: Tensor
    ends: Tensor
    choices: Tensor

    def __init__(
        self,
        weights: Weights,
        config: VibeVoiceConfig,
        precision: AnyPrecision,
        *,
        capacity: int,
        solver_steps: int,
        guidance: float,
    ) -> None:
        """`capacity` is the most positions of a piece of text, for its prompt and its frames."""
        super().__init__()
        self.config = config
        table = weights["model.language_model.embed_tokens.weight"]
        self.register_buffer("embeddings", table.float() if precision == "float32" else table.to(torch.bfloat16))
        chosen = torch.tensor(config.choices)
        self.register_buffer("choices", self.embeddings[chosen].float())
        self.register_buffer("ends", weights.get("lm_head.weight", table)[chosen].float())
        self.language = LlamaStack(weights, "model.language_model", config.language, precision, capacity, STEP_ROWS)
        self.head = DiffusionHead(
            weights, "model.diffusion_head", config.head, precision, steps=solver_steps, guidance=guidance
        )
        self.decoder = decoder(weights, "model.audio_tower.decoder", config.acoustic, precision)
        self.semantic_encoder = encoder(weights, "model.semantic_tokenizer_encoder", config.semantic, precision)
        self.acoustic_encoder = encoder(weights, "model.audio_tower.encoder", config.acoustic, precision)
        self.acoustic_connector = Connector(weights, "model.multi_modal_projector")
        self.semantic_connector = Connector(weights, "model.semantic_connector")
        self.scale = float(weights["model.latent_scaling_factor"])
        self.bias = float(weights["model.latent_bias_factor"])

    @property
    def state_size(self) -> int:
        """Numbers in the codec's state of one stream."""
        return self.decoder.state_size + self.semantic_encoder.state_size

    def voice(self, clip: Tensor) -> Tensor:
        """The embeddings (frames, dim) of a mono clip (samples,)."""
        latents = encode(self.acoustic_encoder, clip, self.config.acoustic.hop)
        embeddings: Tensor = self.acoustic_connector((latents + self.bias) * self.scale)
        return embeddings

    def prompt(self, tokens: Tensor, voices: Tensor) -> Tensor:
        """The embeddings (n, dim) of tokens (n,); the audio tokens among them are replaced by `voices` (frames, dim), in
        order."""
        embedded = self.embeddings[tokens].float()
        embedded[tokens == self.config.audio] = voices
        return embedded

    def frame(self, inputs: Mapping[str, Tensor], cache: KvCache, length: int) -> Tensor:
        """One frame of the streams in the cache's first rows; every stream has two rows, with its text and without.

        The results are packed into one tensor (batch, 1 + hop + dim + state_size); `unpack` splits it.
        """
        positions = torch.stack([inputs["positions"], inputs["free_positions"]], dim=1).flatten()
        hidden = self.language.step(inputs["embedding"].repeat_interleave(2, dim=0), positions, cache, length)
        choice = self.choose(hidden[0::2])
        latent = self.head(hidden, inputs["noise"])
        past, past_semantic = inputs["state"].split([self.decoder.state_size, self.semantic_encoder.state_size], dim=1)
        sound, past = self.decoder((latent / self.scale - self.bias)[:, None], past)
        meaning, past_semantic = self.semantic_encoder(sound, past_semantic)
        embedded = self.acoustic_connector(latent) + self.semantic_connector(meaning[:, 0])
        sounds = (choice == self.config.choices.index(self.config.audio))[:, None]
        embedding = torch.where(sounds, embedded, self.choices[choice])
        state = torch.where(sounds, torch.cat([past, past_semantic], dim=1), inputs["state"])
        return torch.cat([choice[:, None].float(), sound[:, :, 0], embedding, state], dim=1)

    def choose(self, hidden: Tensor) -> Tensor:
        """The index of the likeliest of the `choices`, (batch,) int64, for hidden states (batch, dim)."""
        return (hidden @ self.ends.t()).argmax(dim=-1)

    def unpack(self, packed: Tensor) -> VibeVoiceFrame:
        """Splits the result of `frame`."""
        sizes = [1, self.config.acoustic.hop, self.config.language.dim, self.state_size]
        choice, samples, embedding, state = packed.split(sizes, dim=1)
        return VibeVoiceFrame(choice[:, 0].long(), samples, embedding, state)

    def frame_inputs(self, cache: KvCache) -> dict[str, StepInput]:
        """The inputs of `frame`. An unused row works on the cache's scratch position."""
        return {
            "embedding": StepInput((self.config.language.dim,), torch.float32),
            "positions": StepInput((), torch.int64, neutral=cache.scratch),
            "free_positions": StepInput((), torch.int64, neutral=cache.scratch),
            "noise": StepInput((self.config.head.latent,), torch.float32),
            "state": StepInput((self.state_size,), torch.float32),
        }
