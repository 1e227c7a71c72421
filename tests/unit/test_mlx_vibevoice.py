"""VibeVoice on MLX: mlx-audio reads Microsoft's own layout, and `mlx_speech` speaks with it one piece after another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mlx_audio")

from deployments.engines import registry
from deployments.engines.mlx.runtime import mx
from deployments.engines.protocols import EngineSpec, SpeechRequest
from tests.unit.speech_engine_properties import joined, speak
from tests.unit.vibevoice_models import tokenizer

CODEC = {"encoder_n_filters": 4, "encoder_ratios": [8, 5, 4], "encoder_depths": "1-1-1-2", "decoder_n_filters": 4}
CONFIG = {
    "model_type": "vibevoice",
    "acoustic_vae_dim": 8,
    "semantic_vae_dim": 12,
    "acoustic_tokenizer_config": {**CODEC, "vae_dim": 8},
    "semantic_tokenizer_config": {**CODEC, "vae_dim": 12},
    "decoder_config": {
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 264,
    },
    "diffusion_head_config": {"hidden_size": 48, "head_layers": 1, "latent_size": 8, "speech_vae_dim": 8},
}


def write_tiny(folder: Path) -> Path:
    """Seeded random weights, and a tokenizer beside them, since no hub is asked for one."""
    from mlx.utils import tree_flatten
    from mlx_audio.tts.models.vibevoice.config import ModelConfig
    from mlx_audio.tts.models.vibevoice.vibevoice import Model
    from transformers import PreTrainedTokenizerFast

    (folder / "tokenizer").mkdir(parents=True)
    special = ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|endoftext|>"]
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer(), eos_token="<|endoftext|>")
    words.add_special_tokens({"additional_special_tokens": special[:3]})
    words.save_pretrained(folder / "tokenizer")
    mx.random.seed(1)  # with which the model does not end before its first sound
    weights = dict(tree_flatten(Model(ModelConfig.from_dict(CONFIG)).parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    named = {"language_model_pretrained_name": str(folder / "tokenizer")}
    (folder / "preprocessor_config.json").write_text(json.dumps(named))
    return folder


def test_the_loader_takes_it_and_it_makes_sound(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "vibevoice")
    engine = registry.load("mlx_speech", EngineSpec("vibevoice", str(folder), "mlx", 1, {"max_tokens": 8}))
    assert engine.traits.sample_rate == 24_000
    chunks = speak(engine, SpeechRequest(("Speaker 1: Yes.", "Speaker 1: No, not now."), engine.traits.default_voice))
    assert [chunk.index for chunk in chunks] == [0, 1]
    assert np.isfinite(joined(chunks)).all() and len(joined(chunks)) > 0
