"""Mel-band RoFormers as the converter of mlx-audio writes them, which is how some are published as safetensors.

Its `config.json` has other keys, and queries, keys and values are separate tensors. All others keep their published names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PARTS = ("to_q.weight", "to_k.weight", "to_v.weight")
"""Ends of the names of what `to_qkv.weight` is cut into, in its order."""
JOINED = "to_qkv.weight"
FREQUENCIES = "rotary_embed.freqs"
"""The end of the name of the rotary frequencies. The network computes them; those of a file in bfloat16 are rounded."""


def is_mlx_layout(content: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is that of mlx-audio's converter."""
    return {"num_bands", "mask_estimator_depth", "chunk_size"} <= content.keys()


def in_own_layout(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings as the engine's own `config.json` has them. Raises `KeyError` for an absent one.

    The converter knows one stem, the vocals, and layers of one block for time and one for frequency.
    """
    return {
        "model_type": "mel_band_roformer",
        "sample_rate": content["sample_rate"],
        "chunk_samples": content["chunk_size"],
        "instruments": ["vocals", "other"],
        "target_instrument": "vocals",
        "model": {
            "stereo": True,
            "time_transformer_depth": 1,
            "freq_transformer_depth": 1,
            **{name: content[name] for name in ("dim", "depth", "heads", "dim_head", "num_bands", "num_stems")},
            **{name: content[name] for name in ("sample_rate", "mask_estimator_depth", "mlp_expansion_factor")},
            **{f"stft_{name}": content[name] for name in ("n_fft", "hop_length", "win_length")},
        },
    }


def with_joined_projections(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with queries, keys and values as one, without rotary frequencies; unchanged if they are one already."""
    prefixes = [name.removesuffix(PARTS[0]) for name in tensors if name.endswith(PARTS[0])]
    if not prefixes:
        return dict(tensors)
    whole = [prefix for prefix in prefixes if all(prefix + part in tensors for part in PARTS)]
    joined = {prefix + JOINED: torch.cat([tensors[prefix + part] for part in PARTS]) for prefix in whole}
    return joined | {name: tensor for name, tensor in tensors.items() if not name.endswith((*PARTS, FREQUENCIES))}
