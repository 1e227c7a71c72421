"""Tiny Sopro models with seeded random weights, for tests of our engine alone and beside the package's own."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np

from deployments.engines.base import Samples
from serve_app.bench.sopro_package import write_random_model
from tests.unit.speech_engine_properties import TEXTS

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


def clip(seconds: float = 3.0, *, seed: int = 0) -> Samples:
    """Something with loud and quiet stretches: mono float32 at 24 kHz."""
    times = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(times)) * 0.02
    voice = 0.3 * np.sin(2 * np.pi * (140 + 40 * seed) * times) * (np.sin(2 * np.pi * 1.3 * times) > -0.6)
    return (voice + noise).astype(np.float32)


def write_wav(file: Path, samples: Samples) -> None:
    """16-bit mono."""
    with wave.open(str(file), "wb") as target:
        target.setnchannels(1)
        target.setsampwidth(2)
        target.setframerate(RATE)
        target.writeframes((samples * 32767).astype("<i2").tobytes())


def write_tiny(folder: Path) -> Path:
    """A model with two clips."""
    write_random_model(folder, TINY, [text for texts in TEXTS for text in texts] * 4)
    (folder / "voices").mkdir()
    for seed, name in enumerate(("ada", "ben")):
        write_wav(folder / "voices" / f"{name}.wav", clip(2.7 + 0.4 * seed, seed=seed))
    return folder
