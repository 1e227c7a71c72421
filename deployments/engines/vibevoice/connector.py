"""VibeVoice's connectors: latents of a codec to embeddings of the language model."""

from __future__ import annotations

from torch import Tensor, nn

from deployments.engines.lm.checkpoint import Weights
from deployments.engines.lm.linear import linear
from deployments.engines.lm.rotary import rms_norm


class Connector(nn.Module):
    """Two linear layers with a norm between them."""

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
