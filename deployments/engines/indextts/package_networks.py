"""The package's modules with a folder's weights. The package is imported when a model is loaded.

Weights are the package's state dicts as safetensors, with the names of its modules; weight normalisation (`weight_v`,
`weight_g`) is folded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from deployments.engines.indextts.config import IndexConfig, as_attributes
from deployments.errors import fail

STYLE_SIZE = 192
HEARD_LAYERS = 17
"""Layers of w2v-BERT; the model uses the output of the last of these."""


def weights_of(folder: Path, name: str, device: str) -> dict[str, Tensor]:
    """The tensors of `<name>.safetensors`, on the device. Raises `MotetError` (invalid) if the file does not exist."""
    from indextts25.utils.checkpoint import fold_weight_norm

    file = folder / f"{name}.safetensors"
    if not file.is_file():
        raise fail(
            "invalid",
            f"There is no {file.name} in {folder}.",
            "docs/indextts.md says what the folder holds.",
            param="source",
        )
    folded: dict[str, Tensor] = fold_weight_norm(load_file(file, device), device)
    return folded


def _loaded(make: Callable[[], nn.Module], weights: Mapping[str, Tensor], name: str) -> Any:
    """The module with these weights. Weights that only training needs are ignored."""
    with torch.random.fork_rng():  # a new module draws random weights, which are replaced
        module = make()
    missing = module.load_state_dict(weights, strict=False, assign=True).missing_keys
    if missing:
        raise fail(
            "invalid", f"{name}.safetensors lacks {', '.join(missing[:3])}.", "Convert the published file again."
        )
    return module.eval().requires_grad_(requires_grad=False)


def front_of(config: IndexConfig, weights: Mapping[str, Tensor]) -> Any:
    """The embeddings of text, voice and emotion that make prompts: the language model without its layers."""
    from indextts25.gpt.model_v2 import UnifiedVoice

    others = {name: weight for name, weight in weights.items() if not name.startswith("gpt.h.")}
    return _loaded(lambda: UnifiedVoice(**{**config.gpt, "layers": 0}), others, "gpt")


def codec_of(config: IndexConfig, weights: Mapping[str, Tensor]) -> Any:
    """Codes (batch, n) to features (batch, 2n, 1024): `decode`."""
    from indextts25.codec.models import EnhancedCodec

    return _loaded(lambda: EnhancedCodec(**config.semantic_codec), weights, "codec")


def mel_networks_of(config: IndexConfig, weights: Mapping[str, Tensor]) -> tuple[Any, Any]:
    """The length regulator from features to mel frames, and the estimator of the flow."""
    from indextts25.s2mel.modules.commons import MyModel

    both = _loaded(
        lambda: MyModel(as_attributes(config.s2mel)), {f"models.{k}": v for k, v in weights.items()}, "s2mel"
    )
    estimator = both.models["cfm"].estimator
    estimator.setup_caches(max_batch_size=1, max_seq_length=8192)
    return both.models["length_regulator"], estimator


def vocoder_of(config: IndexConfig, weights: Mapping[str, Tensor]) -> Any:
    """Mel frames (batch, mels, n) to samples (batch, 1, n * hop)."""
    from indextts25.s2mel.modules.bigvgan.bigvgan import BigVGAN
    from indextts25.s2mel.modules.bigvgan.env import AttrDict

    return _loaded(lambda: BigVGAN(AttrDict(config.vocoder)), weights, "vocoder")


def speaker_of(weights: Mapping[str, Tensor]) -> Any:
    """The speaker encoder: (1, frames, 80) to (1, 192)."""
    from indextts25.s2mel.modules.campplus.DTDNN import CAMPPlus

    return _loaded(lambda: CAMPPlus(feat_dim=80, embedding_size=STYLE_SIZE), weights, "speaker")


def semantic_of(config: IndexConfig, weights: Mapping[str, Tensor]) -> Any:
    """w2v-BERT 2.0, up to the layer that is used."""
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

    shape = Wav2Vec2BertConfig(**{"num_hidden_layers": HEARD_LAYERS, **config.semantic})
    return _loaded(lambda: Wav2Vec2BertModel(shape), weights, "semantic")
