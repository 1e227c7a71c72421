"""Tiny Qwen3-TTS models with seeded random weights, in the published layout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from torch import Tensor

CODES, GROUPS = 32, 4
END, PAD, BEGIN, THINK, NO_THINK, THINK_BEGIN, THINK_END = range(CODES + 1024 - 100, CODES + 1024 - 93)
ENGLISH, CHINESE, DIALECT, ANNA, BEN = range(CODES + 1024 - 90, CODES + 1024 - 85)
TURN_BEGIN, TURN_END, TEXT_PAD, TEXT_BEGIN, TEXT_END = range(280, 285)

SIZES: dict[str, Any] = {
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "num_code_groups": GROUPS,
}
PREDICTOR = SIZES | {"vocab_size": CODES, "hidden_size": 24, "num_hidden_layers": 1}
TALKER = SIZES | {
    "code_predictor_config": PREDICTOR,
    "vocab_size": CODES + 1024,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "rope_scaling": {"interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"},
    "text_hidden_size": 40,
    "text_vocab_size": 290,
    "codec_eos_token_id": END,
    "codec_pad_id": PAD,
    "codec_bos_id": BEGIN,
    "codec_think_id": THINK,
    "codec_nothink_id": NO_THINK,
    "codec_think_bos_id": THINK_BEGIN,
    "codec_think_eos_id": THINK_END,
    "codec_language_id": {"english": ENGLISH, "chinese": CHINESE, "sichuan_dialect": DIALECT},
    "spk_id": {"anna": ANNA, "ben": [BEN]},
    "spk_is_dialect": {"anna": False, "ben": "sichuan_dialect"},
}
MODEL: dict[str, Any] = {
    "model_type": "qwen3_tts",
    "tokenizer_type": "qwen3_tts_tokenizer_12hz",
    "tts_model_type": "custom_voice",
    "tts_model_size": "1b7",
    "talker_config": TALKER,
    "tts_bos_token_id": TEXT_BEGIN,
    "tts_eos_token_id": TEXT_END,
    "tts_pad_token_id": TEXT_PAD,
    "im_start_token_id": TURN_BEGIN,
    "im_end_token_id": TURN_END,
}
DECODER: dict[str, Any] = {
    "codebook_size": CODES,
    "codebook_dim": 16,
    "latent_dim": 20,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_quantizers": GROUPS,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "sliding_window": 6,
    "upsampling_ratios": [2, 2],
    "upsample_rates": [5, 4],
    "decoder_dim": 32,
}
CODEC: dict[str, Any] = {"decoder_config": DECODER, "output_sample_rate": 24_000}
HOP = 80
LOUDNESS = 0.03
"""A gain of the last convolution, so that few samples reach full scale."""
GREEDY: dict[str, Any] = {"do_sample": False, "subtalker_dosample": False, "repetition_penalty": 1.05}
NORMS = ("norm.weight", "layernorm.weight")

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def write_tiny(folder: Path, seed: int = 7, **generation: Any) -> Path:
    """A model with two speakers, of which one speaks a dialect."""
    codec = folder / "speech_tokenizer"
    codec.mkdir(parents=True)
    for place, name, values in ((folder, "config.json", MODEL), (codec, "config.json", CODEC)):
        (place / name).write_text(json.dumps(values))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    save_file(model_weights(seed), folder / "model.safetensors")
    save_file(codec_weights(seed), codec / "model.safetensors")
    _write_vocabulary(folder)
    return folder


def model_weights(seed: int) -> dict[str, Tensor]:
    """The weights of talker and code predictor."""
    return _drawn(_model_shapes(), seed, 0.4)


def codec_weights(seed: int) -> dict[str, Tensor]:
    """The weights of the codec's decoder."""
    weights = _drawn(_codec_shapes(), seed + 1, 0.1)
    for name, tensor in weights.items():
        if name.endswith("cluster_usage"):
            tensor.abs_().add_(0.5)
        elif tensor.ndim > 1 and "embedding" not in name:
            tensor.mul_(10 * tensor[0].numel() ** -0.5)
    weights[f"decoder.decoder.{len(DECODER['upsample_rates']) + 2}.conv.weight"].mul_(LOUDNESS)
    return weights


def _drawn(shapes: Shapes, seed: int, scale: float) -> dict[str, Tensor]:
    """Norms are near one; so are the gains of layer scales."""
    random = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        drawn = torch.randn(shape, generator=random)
        if name.endswith((*NORMS, "scale", "gamma")):
            return 1 + 0.1 * drawn
        return scale * drawn

    return {name: draw(name, shape) for name, shape in shapes}


def _model_shapes() -> Shapes:
    dim, text, inner = TALKER["hidden_size"], TALKER["text_hidden_size"], PREDICTOR["hidden_size"]
    yield "talker.model.codec_embedding.weight", (TALKER["vocab_size"], dim)
    yield "talker.model.text_embedding.weight", (TALKER["text_vocab_size"], text)
    yield from _linear("talker.text_projection.linear_fc1", text, text)
    yield from _linear("talker.text_projection.linear_fc2", dim, text)
    yield "talker.codec_head.weight", (TALKER["vocab_size"], dim)
    yield from _decoder("talker.model", TALKER)
    yield from _linear("talker.code_predictor.small_to_mtp_projection", inner, dim)
    for number in range(GROUPS - 1):
        yield f"talker.code_predictor.model.codec_embedding.{number}.weight", (CODES, dim)
        yield f"talker.code_predictor.lm_head.{number}.weight", (CODES, inner)
    yield from _decoder("talker.code_predictor.model", PREDICTOR)


def _decoder(name: str, sizes: dict[str, Any], *, head_norms: bool = True) -> Shapes:
    dim, head_dim = sizes["hidden_size"], sizes["head_dim"]
    queries, keys = (sizes[f"num_{kind}_heads"] * head_dim for kind in ("attention", "key_value"))
    yield f"{name}.norm.weight", (dim,)
    for number in range(sizes["num_hidden_layers"]):
        layer = f"{name}.layers.{number}"
        for part, rows in (("q", queries), ("k", keys), ("v", keys)):
            yield f"{layer}.self_attn.{part}_proj.weight", (rows, dim)
        yield f"{layer}.self_attn.o_proj.weight", (dim, queries)
        if head_norms:
            yield f"{layer}.self_attn.q_norm.weight", (head_dim,)
            yield f"{layer}.self_attn.k_norm.weight", (head_dim,)
        for part, shape in (("gate", (-1, dim)), ("up", (-1, dim)), ("down", (dim, -1))):
            rows, columns = (sizes["intermediate_size"] if size < 0 else size for size in shape)
            yield f"{layer}.mlp.{part}_proj.weight", (rows, columns)
        yield f"{layer}.input_layernorm.weight", (dim,)
        yield f"{layer}.post_attention_layernorm.weight", (dim,)


def _codec_shapes() -> Shapes:
    book, latent, dim = DECODER["codebook_dim"], DECODER["latent_dim"], DECODER["hidden_size"]
    for part, count in (("rvq_first", 1), ("rvq_rest", GROUPS - 1)):
        for number in range(count):
            layer = f"decoder.quantizer.{part}.vq.layers.{number}._codebook"
            yield f"{layer}.embedding_sum", (CODES, book // 2)
            yield f"{layer}.cluster_usage", (CODES,)
        for way, shape in (("input", (book // 2, book, 1)), ("output", (book, book // 2, 1))):
            yield f"decoder.quantizer.{part}.{way}_proj.weight", shape
    yield from _linear("decoder.pre_conv.conv", latent, book, 3)
    name = "decoder.pre_transformer"
    yield from _linear(f"{name}.input_proj", dim, latent)
    yield from _linear(f"{name}.output_proj", latent, dim)
    yield from _decoder(name, DECODER, head_norms=False)
    for number in range(DECODER["num_hidden_layers"]):
        yield f"{name}.layers.{number}.self_attn_layer_scale.scale", (dim,)
        yield f"{name}.layers.{number}.mlp_layer_scale.scale", (dim,)
    for number, stride in enumerate(DECODER["upsampling_ratios"]):
        yield from _upsampling(f"decoder.upsample.{number}.0.conv", latent, latent, stride)
        yield from _conv_next(f"decoder.upsample.{number}.1", latent)
    yield from _convolutions(latent)


def _convolutions(latent: int) -> Shapes:
    channels = DECODER["decoder_dim"]
    yield from _linear("decoder.decoder.0.conv", channels, latent, 7)
    for number, rate in enumerate(DECODER["upsample_rates"], 1):
        block = f"decoder.decoder.{number}.block"
        yield from _snake(f"{block}.0", channels)
        yield from _upsampling(f"{block}.1.conv", channels, channels // 2, 2 * rate)
        channels //= 2
        for unit in (2, 3, 4):
            yield from _snake(f"{block}.{unit}.act1", channels)
            yield from _linear(f"{block}.{unit}.conv1.conv", channels, channels, 7)
            yield from _snake(f"{block}.{unit}.act2", channels)
            yield from _linear(f"{block}.{unit}.conv2.conv", channels, channels, 1)
    last = len(DECODER["upsample_rates"]) + 1
    yield from _snake(f"decoder.decoder.{last}", channels)
    yield from _linear(f"decoder.decoder.{last + 1}.conv", 1, channels, 7)


def _linear(name: str, outputs: int, *inputs: int) -> Shapes:
    yield f"{name}.weight", (outputs, *inputs)
    yield f"{name}.bias", (outputs,)


def _upsampling(name: str, inputs: int, outputs: int, taps: int) -> Shapes:
    yield f"{name}.weight", (inputs, outputs, taps)
    yield f"{name}.bias", (outputs,)


def _snake(name: str, channels: int) -> Shapes:
    yield f"{name}.alpha", (channels,)
    yield f"{name}.beta", (channels,)


def _conv_next(name: str, dim: int) -> Shapes:
    yield f"{name}.gamma", (dim,)
    yield from _linear(f"{name}.dwconv.conv", dim, 1, 7)
    yield from _linear(f"{name}.norm", dim)
    yield from _linear(f"{name}.pwconv1", 4 * dim, dim)
    yield from _linear(f"{name}.pwconv2", dim, 4 * dim)


def _write_vocabulary(folder: Path) -> None:
    """All bytes, and the words `assistant` and `user`, which are one token in the published vocabulary."""
    pieces, merges = sorted(pre_tokenizers.ByteLevel.alphabet()), []
    for word in ("assistant", "user"):
        for end in range(1, len(word)):
            merges.append(f"{word[:end]} {word[end]}")
            pieces.append(word[: end + 1])
    (folder / "vocab.json").write_text(
        json.dumps({piece: number for number, piece in enumerate(dict.fromkeys(pieces))})
    )
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
