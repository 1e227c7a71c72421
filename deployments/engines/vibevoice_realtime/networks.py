"""VibeVoice-Realtime's networks, and the two steps of all streams: read a window of text, and generate a frame of audio.

The language model is cut in two: the lower decoder reads text alone; the upper one reads what the lower one made of it, and
the frames. A second row of the upper decoder reads the frames alone, for guidance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deployments.engines.graphs import StepInput
from deployments.engines.lm.checkpoint import Weights
from deployments.engines.lm.kv_cache import KvCache
from deployments.engines.lm.linear import AnyPrecision, RowCounts, linear
from deployments.engines.lm.llama import LlamaStack
from deployments.engines.vibevoice.codec import decoder
from deployments.engines.vibevoice.connector import Connector
from deployments.engines.vibevoice.diffusion import DiffusionHead
from deployments.engines.vibevoice_realtime.config import SPEECH_WINDOW, TEXT_WINDOW, VibeVoiceRealtimeConfig
from deployments.engines.vibevoice_realtime.weight_names import CONNECTOR, DECODER, HEAD, PublishedWeights

AUDIO, TEXT = 0, 1
"""The types of inputs of the upper decoder."""
LOWER_ROWS: RowCounts = {TEXT_WINDOW: 1.0, 8 * TEXT_WINDOW: 1.0}
UPPER_ROWS: RowCounts = {2: 1.0, 16: 1.0, 8 * TEXT_WINDOW: 1 / SPEECH_WINDOW}
"""One stream and eight: each has two rows in a frame, and a window of text before every sixth frame."""


class EndClassifier(nn.Module):
    """Tells from the upper decoder's hidden state whether a frame is the last one."""

    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        self.first, self.second = (
            linear(weights[f"{name}.fc{n}.weight"].float(), weights[f"{name}.fc{n}.bias"].float(), "float32")
            for n in (1, 2)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """(n, dim) to logits (n, 1): above 0, the frame is more likely the last one than not."""
        made: Tensor = self.second(F.relu(self.first(hidden)))
        return made


@dataclass(frozen=True, slots=True)
class RealtimeFrame:
    """One frame of every stream: the logit of its end (batch,), samples (batch, hop), the upper decoder's states with the
    text and without (batch, 2, dim), and the past inputs of the codec (batch, state_size)."""

    end: Tensor
    samples: Tensor
    hidden: Tensor
    state: Tensor


@dataclass(frozen=True, slots=True)
class RealtimeCaches:
    """The caches of the lower decoder, with a row for each stream, and of the upper one, with two."""

    lower: KvCache
    upper: KvCache


class VibeVoiceRealtimeNetworks(nn.Module):
    """The weights of a model."""

    embeddings: Tensor
    types: Tensor

    def __init__(
        self,
        published: Weights,
        config: VibeVoiceRealtimeConfig,
        precision: AnyPrecision,
        *,
        capacity: int,
        solver_steps: int,
        guidance: float,
    ) -> None:
        """From weights with Microsoft's names. `capacity` is the most positions of a voice, a text and its frames."""
        super().__init__()
        self.config = config
        weights = PublishedWeights(published)
        table = weights["model.language_model.embed_tokens.weight"]
        self.register_buffer("embeddings", table.float() if precision == "float32" else table.to(torch.bfloat16))
        self.register_buffer("types", weights["model.tts_input_types.weight"].float())
        self.lower = LlamaStack(
            weights, "model.language_model", config.lower, precision, capacity, LOWER_ROWS, is_normed=False
        )
        self.upper = LlamaStack(weights, "model.tts_language_model", config.upper, precision, capacity, UPPER_ROWS)
        self.head = DiffusionHead(weights, HEAD, config.head, precision, steps=solver_steps, guidance=guidance)
        self.decoder = decoder(weights, DECODER, config.codec, precision)
        self.connector = Connector(weights, CONNECTOR)
        self.end = EndClassifier(weights, "tts_eos_classifier")
        self.scale = float(weights["model.speech_scaling_factor"])
        self.bias = float(weights["model.speech_bias_factor"])

    def new_caches(self, slots: int) -> RealtimeCaches:
        """Caches of `slots` streams."""
        return RealtimeCaches(self.lower.new_cache(slots), self.upper.new_cache(2 * slots))

    def embedded(self, tokens: Tensor) -> Tensor:
        """The embeddings (n, dim) of tokens (n,)."""
        return self.embeddings[tokens].float()

    def window(self, inputs: Mapping[str, Tensor], caches: RealtimeCaches, length: int) -> Tensor:
        """Reads a window of text of some streams: the upper decoder's states (batch, dim) at its end."""
        count = inputs["count"]
        ahead = torch.arange(TEXT_WINDOW, device=count.device)
        lower, upper = (
            torch.where(ahead < count[:, None], inputs[f"{name}_position"][:, None] + ahead, caches.upper.scratch)
            for name in ("lower", "upper")
        )
        text = self.lower.window(inputs["embedding"], inputs["lower_row"], lower, caches.lower, length)
        hidden = self.upper.window(text + self.types[TEXT], inputs["upper_row"], upper, caches.upper, length)
        last = (count - 1).clamp_min(0)
        return hidden[torch.arange(len(count), device=count.device), last]

    def frame(self, inputs: Mapping[str, Tensor], caches: RealtimeCaches, length: int) -> Tensor:
        """One frame of the streams in the upper cache's first rows; every stream has two, with its text and without.

        The results are packed into one tensor (batch, 1 + hop + 2 * dim + state_size); `unpack` splits it.
        """
        hidden = inputs["hidden"].flatten(0, 1)
        latent = self.latent(hidden, inputs["noise"])
        sound, state = self.decoder((latent / self.scale - self.bias)[:, None], inputs["state"])
        embedding = self.connector(latent) + self.types[AUDIO]
        positions = torch.stack([inputs["positions"], inputs["free_positions"]], dim=1).flatten()
        hidden = self.upper.step(embedding.repeat_interleave(2, dim=0), positions, caches.upper, length)
        return torch.cat([self.end(hidden[0::2]), sound[:, :, 0], hidden.view(len(latent), -1), state], dim=1)

    def latent(self, hidden: Tensor, noise: Tensor) -> Tensor:
        """The latents (batch, latent) of the next frame, from hidden states (2 * batch, dim) and noise (batch, latent)."""
        made: Tensor = self.head(hidden, noise)
        return made

    def unpack(self, packed: Tensor) -> RealtimeFrame:
        """Splits the result of `frame`."""
        dim = self.config.upper.dim
        end, samples, hidden, state = packed.split([1, self.config.codec.hop, 2 * dim, self.decoder.state_size], dim=1)
        return RealtimeFrame(end[:, 0], samples, hidden.view(len(packed), 2, dim), state)

    def window_inputs(self) -> dict[str, StepInput]:
        """The inputs of `window`. An unused row has no tokens, and works on the scratch position of the first row."""
        return {
            "embedding": StepInput((TEXT_WINDOW, self.config.lower.dim), torch.float32),
            "count": StepInput((), torch.int64),
            "lower_row": StepInput((), torch.int64),
            "lower_position": StepInput((), torch.int64),
            "upper_row": StepInput((), torch.int64),
            "upper_position": StepInput((), torch.int64),
        }

    def frame_inputs(self, caches: RealtimeCaches) -> dict[str, StepInput]:
        """The inputs of `frame`. An unused row works on the cache's scratch position."""
        scratch = caches.upper.scratch
        return {
            "hidden": StepInput((2, self.config.upper.dim), torch.float32),
            "positions": StepInput((), torch.int64, neutral=scratch),
            "free_positions": StepInput((), torch.int64, neutral=scratch),
            "noise": StepInput((self.config.head.latent,), torch.float32),
            "state": StepInput((self.decoder.state_size,), torch.float32),
        }
