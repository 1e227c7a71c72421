"""Tiny VibeVoice-Realtime models with seeded random weights, in Microsoft's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from deployments.engines.vibevoice_realtime.config import config_of
from tests.load.shapes import read
from tests.load.voices_vibevoice_realtime import write_voice
from tests.unit.vibevoice_models import tokenizer

HOP = 320
CONFIG: dict[str, Any] = {
    "model_type": "vibevoice_streaming",
    "acoustic_vae_dim": 8,
    "tts_backbone_num_hidden_layers": 3,
    "acoustic_tokenizer_config": {
        "vae_dim": 8,
        "encoder_n_filters": 4,
        "decoder_n_filters": 4,
        "encoder_ratios": [10, 8, 4],
        "encoder_depths": "1-1-1-2",
        "layernorm_eps": 1e-5,
    },
    "decoder_config": {
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
        "vocab_size": 264,
    },
    "diffusion_head_config": {
        "hidden_size": 64,
        "latent_size": 8,
        "speech_vae_dim": 8,
        "head_layers": 2,
        "head_ffn_ratio": 1.5,
        "rms_norm_eps": 1e-5,
        "ddpm_num_steps": 1000,
        "ddpm_num_inference_steps": 10,
        "ddpm_beta_schedule": "cosine",
        "prediction_type": "v_prediction",
    },
}
"""Two lower and three upper layers, and frames of 320 samples."""
VOICES = {"en-Ada_woman": (7, 11), "ben": (4, 9)}
"""Positions of the lower and the upper decoder."""


def weights(seed: int) -> dict[str, Tensor]:
    """Random numbers of a size that makes every part matter; the ends of pieces differ by the text."""
    random = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}
    for name, shape in read("vibevoice_realtime")["tiny"].items():
        numbers = torch.randn(shape, generator=random)
        if name.endswith("gamma"):
            made[name] = torch.full(shape, 0.3)
        elif name.endswith(("norm.weight", "layernorm.weight")):
            made[name] = 1 + 0.1 * numbers
        elif len(shape) < 2:
            made[name] = 0.1 * numbers
        else:
            made[name] = numbers * numbers[0].numel() ** -0.5
    made["model.language_model.embed_tokens.weight"] *= 8
    made["model.tts_input_types.weight"] *= 4
    made["model.acoustic_tokenizer.decoder.head.conv.conv.weight"] *= 0.2
    made["model.speech_scaling_factor"] = torch.tensor(0.8)
    made["model.speech_bias_factor"] = torch.tensor(-0.1)
    made["tts_eos_classifier.fc2.weight"] *= 3
    made["tts_eos_classifier.fc2.bias"] -= 3.6  # about one frame in twenty is the last
    return made


def write_tiny(folder: Path, seed: int = 1) -> Path:
    """A model with two voices, and a vocabulary of bytes."""
    folder.mkdir(parents=True)
    save_file(weights(seed), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    tokenizer().save(str(folder / "tokenizer.json"))
    for number, (name, positions) in enumerate(VOICES.items()):
        write_voice(folder / "voices" / f"{name}.safetensors", config_of(CONFIG), positions, seed=number)
    return folder
