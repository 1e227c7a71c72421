"""Tiny Sopro models with seeded random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.load.sopro_package import write_random_model
from tests.unit.cloning_engine_properties import PIECES, write_voices

RATE = 24_000
TINY: dict[str, Any] = {
    "model": {
        "latent_dim": 48,
        "semantic_vocab_size": 36,
        "text_vocab_size": 96,
        "cond_in_dim": 24,
        "cond_hidden_dim": 32,
        "ar_model_dim": 64,
        "ar_blocks": 2,
        "ar_heads": 4,
        "style_prefix_tokens": 4,
        "acoustic_time_embed_dim": 16,
        "acoustic_dit_dim": 64,
        "acoustic_dit_depth": 2,
        "acoustic_dit_heads": 2,
        "acoustic_dit_dim_head": 32,
        "acoustic_spk_dim": 16,
        "acoustic_mel_n_mels": 20,
    },
    "semantic_encoder": {"d_model": 32, "layers": 1, "heads": 2, "ffn_dim": 64, "fsq_levels": [3, 3, 4]},
    "speaker_encoder": {
        "n_mels": 20,
        "n_fft": 512,
        "stem_channels": 16,
        "stage_channels": [16, 16],
        "blocks_per_stage": [1, 2],
        "id_emb_dim": 10,
        "style_emb_dim": 8,
        "style_ctrl_dim": 6,
        "id_head_hidden": 16,
        "style_head_hidden": 16,
        "attn_hidden": 8,
    },
    "vocoder": {"n_mels": 20, "dim": 32, "intermediate_dim": 64, "num_layers": 3, "block_lookaheads": [3, 3, 3]},
    "generation": {"max_seconds": 4.0, "prompt_tokens": 24, "style_tokens": 40},
}


def write_tiny(folder: Path) -> Path:
    """A model with two clips."""
    write_random_model(folder, TINY, PIECES * 4)
    write_voices(folder, (2.7, 3.1))
    return folder
