"""The names of tensors in Microsoft's files, for the parts that VibeVoice-Realtime shares with VibeVoice.

These parts read their weights by the names of the Hugging Face layout.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from deployments.engines.lm.checkpoint import Weights

DECODER = "model.acoustic_tokenizer.decoder"
HEAD = "model.prediction_head"
CONNECTOR = "model.acoustic_connector"

_RULES = tuple(
    (re.compile(f"^{re.escape(part)}\\.{pattern}"), f"{part}.{replacement}")
    for part, pattern, replacement in (
        (DECODER, r"stem\.conv\.conv\.", "upsample_layers.0.0.conv.conv."),
        (DECODER, r"stem\.stage\.", "stages.0."),
        (DECODER, r"conv_layers\.(\d+)\.convtr\.convtr\.", "upsample_layers.{next}.0.convtr.convtr."),
        (DECODER, r"conv_layers\.(\d+)\.stage\.", "stages.{next}."),
        (DECODER, r"head\.conv\.", "head.conv.conv."),
        (HEAD, r"timestep_proj\.fc1\.", "t_embedder.mlp.0."),
        (HEAD, r"timestep_proj\.fc2\.", "t_embedder.mlp.2."),
        (HEAD, r"layers\.(\d+)\.linear\.", "layers.{same}.adaLN_modulation.1."),
        (HEAD, r"final_layer\.linear_1\.", "final_layer.adaLN_modulation.1."),
        (HEAD, r"final_layer\.linear_2\.", "final_layer.linear."),
        (CONNECTOR, r"linear_(\d)\.", "fc{same}."),
        (CONNECTOR, r"act\.", "norm."),
    )
)


def published_name(name: str) -> str:
    """Microsoft's name of a tensor of the Hugging Face layout."""
    for pattern, replacement in _RULES:
        if match := pattern.match(name):
            number = int(match[1]) if match.groups() else 0
            name = replacement.format(same=number, next=number + 1) + name[match.end() :]
            break
    return name.replace(".mixer.conv.", ".mixer.conv.conv.conv.")


class PublishedWeights(Mapping[str, Tensor]):
    """Microsoft's tensors by the names of the Hugging Face layout; others keep their names."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[published_name(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
