"""A small Qwen3-TTS with random weights in mlx-audio's layout, for tests and benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deployments.engines.mlx.runtime import mx

CODES = 32
CONTROL = 1024  # the model never says the last 1024 tokens of its vocabulary, but for the end
EOS = CODES + 4
HIDDEN = 32
GROUPS = 4

PREDICTOR: dict[str, Any] = {
    "vocab_size": CODES,
    "hidden_size": HIDDEN,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "num_code_groups": GROUPS,
}
TALKER: dict[str, Any] = PREDICTOR | {
    "code_predictor_config": PREDICTOR,
    "vocab_size": CODES + CONTROL,
    "num_hidden_layers": 2,
    "rope_scaling": {"interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"},
    "text_hidden_size": HIDDEN,
    "text_vocab_size": 300,
    "codec_eos_token_id": EOS,
    "codec_pad_id": CODES + 5,
    "codec_bos_id": CODES + 6,
    "codec_think_id": CODES + 7,
    "codec_nothink_id": CODES + 8,
    "codec_think_bos_id": CODES + 9,
    "codec_think_eos_id": CODES + 10,
    "codec_language_id": {"english": CODES + 11},
    "spk_id": {"anna": CODES + 12, "ben": CODES + 13},
    "spk_is_dialect": {"anna": False, "ben": False},
}
MODEL: dict[str, Any] = {
    "model_type": "qwen3_tts",
    "tts_model_type": "custom_voice",
    "talker_config": TALKER,
    "tts_bos_token_id": 290,
    "tts_eos_token_id": 291,
    "tts_pad_token_id": 292,
    "sample_rate": 24_000,
}
DECODER: dict[str, Any] = {
    "latent_dim": 16,
    # The loader tells a convolution's layout from its shape: a kernel of one tap needs more than 64 channels.
    "codebook_dim": 144,
    "codebook_size": CODES,
    "semantic_codebook_size": CODES,
    "decoder_dim": 288,
    "hidden_size": 16,
    "intermediate_size": 16,
    "head_dim": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": 1,
    "num_quantizers": GROUPS,
    "vector_quantization_hidden_dimension": 72,
    "upsample_rates": [4, 3],
    "upsampling_ratios": [2, 2],
}
CODEC: dict[str, Any] = {"decoder_config": DECODER, "decode_upsample_rate": 48}


def write(folder: Path) -> Path:
    """Fills the folder with the same weights every time."""
    from mlx_audio.tts.models.qwen3_tts.config import ModelConfig, Qwen3TTSTokenizerConfig
    from mlx_audio.tts.models.qwen3_tts.qwen3_tts import Model
    from mlx_audio.tts.models.qwen3_tts.speech_tokenizer import Qwen3TTSSpeechTokenizer

    codec = folder / "speech_tokenizer"
    codec.mkdir(parents=True)
    mx.random.seed(20)
    _save(folder, Model(ModelConfig.from_dict(MODEL)), MODEL, scale=0.3)
    _save(codec, Qwen3TTSSpeechTokenizer(Qwen3TTSTokenizerConfig(**CODEC)), CODEC, scale=0.3)
    _write_tokenizer(folder)
    return folder


def _save(folder: Path, model: Any, config: dict[str, Any], scale: float) -> None:
    from mlx.utils import tree_flatten

    weights = {name: _drawn(name, array, scale) for name, array in tree_flatten(model.parameters())}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    (folder / "config.json").write_text(json.dumps(config))


def _drawn(name: str, array: Any, scale: float) -> Any:
    """Norms keep their ones and biases their zeros; all other weights are random."""
    return array if array.ndim < 2 else scale * mx.random.normal(array.shape)


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: number for number, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
