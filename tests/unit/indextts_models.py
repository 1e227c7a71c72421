"""Tiny IndexTTS models with seeded random weights, and clips for their voices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.unit.cloning_engine_properties import write_voices

RATE = 22_050

TINY: dict[str, Any] = {
    "gpt": {
        "model_dim": 48,
        "layers": 3,
        "heads": 3,
        "max_mel_tokens": 150,
        "max_text_tokens": 140,
        "number_text_tokens": 1929,
        "number_mel_codes": 66,
        "start_mel_token": 64,
        "stop_mel_token": 65,
        "emo_condition_module": {
            "output_size": 16,
            "linear_units": 16,
            "attention_heads": 2,
            "num_blocks": 1,
            "perceiver_mult": 1,
        },
    },
    "semantic_codec": {
        "codebook_size": 64,
        "vocos_dim": 32,
        "vocos_intermediate_dim": 32,
        "vocos_num_layers": 2,
    },
    "s2mel": {
        "length_regulator": {"channels": 32, "content_codebook_size": 8},
        "DiT": {"hidden_dim": 32, "num_heads": 2, "depth": 3, "content_dim": 32, "content_codebook_size": 8},
        "wavenet": {"hidden_dim": 32, "num_layers": 2},
    },
    "bigvgan": {
        "upsample_rates": [8, 8, 4],
        "upsample_kernel_sizes": [16, 16, 8],
        "upsample_initial_channel": 32,
        "resblock_kernel_sizes": [3, 5],
        "resblock_dilation_sizes": [[1, 3], [1, 3]],
    },
    "w2v_bert": {"num_hidden_layers": 1, "intermediate_size": 32, "num_attention_heads": 4},
    "emo_num": [2, 1, 3, 1, 2, 1, 1, 2],
}


def write_tiny(folder: Path) -> Path:
    """A folder with every network, one clip and one encoded voice."""
    from tests.load.indextts_package import FULL, merged, write_random_model

    write_random_model(folder, merged(FULL, TINY), seed=3)
    write_voices(folder, (1.2,), RATE)
    random = torch.Generator().manual_seed(5)
    heard = {
        "style": torch.randn(192, generator=random),
        "features": torch.randn(60, 1024, generator=random),
        "mel": torch.randn(80, 103, generator=random) - 4,
    }
    save_file(heard, folder / "voices" / "ben.safetensors")
    return folder
