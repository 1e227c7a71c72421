"""Tiny VibeVoice models with seeded random weights, in the Hugging Face layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import VibeVoiceConfig, VibeVoiceForConditionalGeneration

from tests.unit.cloning_engine_properties import write_voices

CODEC = {"num_filters": 4, "downsampling_ratios": [4, 8, 10], "depths": [1, 1, 1, 2], "initializer_range": 0.3}
AUDIO, BEGIN, END, STOP = 262, 260, 261, 259
MARKS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|pad|>",
    "<|endoftext|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
)
"""Special tokens from 256 on, in the order of the published vocabulary."""


def config(**text: Any) -> Any:
    """Two layers, a frame of 320 samples."""
    sizes = {
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 264,
        "tie_word_embeddings": False,
        "initializer_range": 0.15,
    }
    return VibeVoiceConfig(
        text_config=sizes | text,
        audio_config={"model_type": "vibevoice_acoustic_tokenizer", "hidden_size": 8, **CODEC},
        semantic_model_config={"model_type": "vibevoice_acoustic_tokenizer_encoder", "hidden_size": 12, **CODEC},
        diffusion_head_config={"num_hidden_layers": 2, "intermediate_size": 96, "frequency_embedding_size": 32},
        pad_token_id=258,
        eos_token_id=STOP,
        audio_bos_token_id=BEGIN,
        audio_eos_token_id=END,
        audio_token_id=AUDIO,
    )


def model(seed: int) -> Any:
    """With random layer scales, so that every path matters."""
    torch.manual_seed(seed)
    made = VibeVoiceForConditionalGeneration(config()).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.3)
            elif parameter.ndim > 1 and ("diffusion_head" in name or "connector" in name or "projector" in name):
                parameter.normal_(std=parameter.shape[1] ** -0.5, generator=random)
            elif parameter.ndim == 3:
                parameter.normal_(std=0.25, generator=random)
        made.model.audio_tower.decoder.head.conv.weight.mul_(0.006)
        for token, likely in ((STOP, 0.5), (BEGIN, 0.25), (END, 0.3)):
            made.lm_head.weight[token].mul_(likely)
        made.model.latent_scaling_factor.fill_(0.8)
        made.model.latent_bias_factor.fill_(-0.1)
    return made


def write_tiny(folder: Path, seed: int = 38) -> Path:
    """A model with two clips, and a vocabulary of bytes."""
    model(seed).save_pretrained(folder)
    values = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(values | {"guidance_scale": 1.5}))
    tokenizer().save(str(folder / "tokenizer.json"))
    write_voices(folder, (1.1, 1.3))
    return folder


def tokenizer() -> Tokenizer:
    """Every byte is a token, and so is every special token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("."), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(MARKS))
    return made
