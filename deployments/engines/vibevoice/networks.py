"""VibeVoice's networks, and the step in which all of them make one frame of every stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deployments.engines.graphs import StepInput
from deployments.engines.lm.checkpoint import Weights
from deployments.engines.lm.kv_cache import KvCache
from deployments.engines.lm.linear import AnyPrecision, RowCounts, linear
from deployments.engines.lm.llama import LlamaStack
from deployments.engines.lm.rotary import rms_norm
from deployments.engines.vibevoice.codec import decoder, encode, encoder
from deployments.engines.vibevoice.config import VibeVoiceConfig
from deployments.engines.vibevoice.diffusion import DiffusionHead

STEP_ROWS: RowCounts = {2: 1.0, 16: 1.0, 128: 0.25}
"""Of the language model: a stream has two rows, with its text and without."""


class _Connector(nn.Module):
    """Latents to what the language model reads."""

    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        first, second = (
            linear(weights[f"{name}.linear_{n}.weight"].float(), weights[f"{name}.linear_{n}.bias"].float(), "float32")
            for n in (1, 2)
        )
        self.first, self.second = first, second
        self.norm = nn.Parameter(weights[f"{name}.act.weight"].float(), requires_grad=False)

    def forward(self, latents: Tensor) -> Tensor:
        """(n, latent) to (n, dim)."""
        made: Tensor = self.second(rms_norm(self.first(latents), self.norm))
        return made


@dataclass(frozen=True, slots=True)
class VibeVoiceFrame:
    """One frame of every stream: which of the `choices` was chosen (batch,), its samples (batch, hop), and what the next
    frame begins with: an embedding (batch, dim) and the codec's past (batch, state_size)."""

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
        """`capacity` is how many positions a piece of text may take, from its prompt's first to its last frame."""
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
        self.listener = encoder(weights, "model.semantic_tokenizer_encoder", config.semantic, precision)
        self.hearer = encoder(weights, "model.audio_tower.encoder", config.acoustic, precision)
        self.from_latent = _Connector(weights, "model.multi_modal_projector")
        self.from_meaning = _Connector(weights, "model.semantic_connector")
        self.scale = float(weights["model.latent_scaling_factor"])
        self.bias = float(weights["model.latent_bias_factor"])

    @property
    def state_size(self) -> int:
        """Numbers that the codec keeps of a stream's past."""
        return self.decoder.state_size + self.listener.state_size

    def voice(self, clip: Tensor) -> Tensor:
        """(frames, dim): what the language model reads of a mono clip (samples,)."""
        latents = encode(self.hearer, clip, self.config.acoustic.hop)
        heard: Tensor = self.from_latent((latents + self.bias) * self.scale)
        return heard

    def prompt(self, tokens: Tensor, voices: Tensor) -> Tensor:
        """(n, dim) of (n,) tokens; the audio tokens among them stand for `voices` (frames, dim), in order."""
        embedded = self.embeddings[tokens].float()
        embedded[tokens == self.config.audio] = voices
        return embedded

    def frame(self, inputs: Mapping[str, Tensor], cache: KvCache, length: int) -> Tensor:
        """One frame of the streams in the cache's first rows: every stream has two rows, with its text and without.

        What is made is packed into one tensor (batch, 1 + hop + dim + state_size); `unpack` takes it apart.
        """
        positions = torch.stack([inputs["positions"], inputs["free_positions"]], dim=1).flatten()
        hidden = self.language.step(inputs["embedding"].repeat_interleave(2, dim=0), positions, cache, length)
        choice = self.choose(hidden[0::2])
        latent = self.head(hidden, inputs["noise"])
        past, past_heard = inputs["state"].split([self.decoder.state_size, self.listener.state_size], dim=1)
        sound, past = self.decoder((latent / self.scale - self.bias)[:, None], past)
        meaning, past_heard = self.listener(sound, past_heard)
        heard = self.from_latent(latent) + self.from_meaning(meaning[:, 0])
        sounds = (choice == self.config.choices.index(self.config.audio))[:, None]
        embedding = torch.where(sounds, heard, self.choices[choice])
        state = torch.where(sounds, torch.cat([past, past_heard], dim=1), inputs["state"])
        return torch.cat([choice[:, None].float(), sound[:, :, 0], embedding, state], dim=1)

    def choose(self, hidden: Tensor) -> Tensor:
        """Which of the `choices` is the likeliest, (batch,) int64 of what the language model thinks, (batch, dim)."""
        return (hidden @ self.ends.t()).argmax(dim=-1)

    def unpack(self, packed: Tensor) -> VibeVoiceFrame:
        """What `frame` made."""
        sizes = [1, self.config.acoustic.hop, self.config.language.dim, self.state_size]
        choice, samples, embedding, state = packed.split(sizes, dim=1)
        return VibeVoiceFrame(choice[:, 0].long(), samples, embedding, state)

    def frame_inputs(self, cache: KvCache) -> dict[str, StepInput]:
        """What `frame` takes. A row that nobody uses works on the cache's scratch position."""
        return {
            "embedding": StepInput((self.config.language.dim,), torch.float32),
            "positions": StepInput((), torch.int64, neutral=cache.scratch),
            "free_positions": StepInput((), torch.int64, neutral=cache.scratch),
            "noise": StepInput((self.config.head.latent,), torch.float32),
            "state": StepInput((self.state_size,), torch.float32),
        }
