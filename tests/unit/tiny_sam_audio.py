"""A small SAM-Audio with random weights and its T5 in mlx-audio's layout, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deployments.engines.mlx.runtime import mx

RATE = 16_000
MODEL: dict[str, Any] = {
    "model_type": "sam_audio",
    "in_channels": 48,
    "audio_codec": {
        "encoder_dim": 8,
        "encoder_rates": [2, 2, 2, 4],
        "latent_dim": 16,
        "decoder_dim": 192,
        "decoder_rates": [4, 2, 2, 2],
        "n_codebooks": 2,
        "codebook_size": 16,
        "codebook_dim": 8,
        "sample_rate": RATE,
    },
    "text_encoder": {"name": "t5", "dim": 16},
    "transformer": {"dim": 32, "n_heads": 2, "n_layers": 2, "context_dim": 32, "out_channels": 16},
    "anchor_embedding_dim": 8,
}
T5: dict[str, Any] = {
    "model_type": "t5",
    "vocab_size": 300,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 16,
    "num_layers": 1,
    "num_heads": 2,
}
"""As that of the published T5, it does not say that its feed-forward layers are not gated."""
NOT_GATED: dict[str, Any] = {"is_gated_act": False, "dense_act_fn": "relu"}


def write(folder: Path) -> Path:
    """Fills the folder with the same weights every time."""
    from mlx_audio.sts.models.sam_audio import SAMAudio, SAMAudioConfig
    from mlx_audio.sts.models.sam_audio.text_encoder import T5Config, T5Encoder

    encoder = folder / "text_encoder"
    encoder.mkdir(parents=True)
    mx.random.seed(30)
    _save(folder, SAMAudio(SAMAudioConfig.from_dict(MODEL)), MODEL)
    known = {key: value for key, value in T5.items() if key != "model_type"}
    _save(encoder, T5Encoder(T5Config(**NOT_GATED, **known)), T5)
    _write_tokenizer(encoder)
    return folder


def _save(folder: Path, model: Any, config: dict[str, Any]) -> None:
    from mlx.utils import tree_flatten

    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    (folder / "config.json").write_text(json.dumps(config))


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: number for number, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens(["<pad>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
