"""Small separators and enhancers of mlx-audio with random weights, in its layout, for tests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from deployments.engines.deepfilternet.spectra import BAND_WIDTHS
from deployments.engines.mlx.runtime import mx

MEL_ROFORMER: dict[str, Any] = {
    "dim": 16,
    "depth": 1,
    "heads": 2,
    "dim_head": 8,
    "num_bands": 8,
    "mask_estimator_depth": 1,
    "n_fft": 512,
    "hop_length": 128,
    "win_length": 512,
    "sample_rate": 44_100,
    "chunk_size": 8 * 44_100,
}
DEEPFILTERNET: dict[str, Any] = {
    "model_version": "DeepFilterNet3",
    "df_lookahead": 2,
    "conv_lookahead": 2,
    "emb_hidden_dim": 64,
    "df_hidden_dim": 64,
    "df_num_layers": 2,
}
MOSSFORMER: dict[str, Any] = {"model_type": "mossformer2_se", "win_len": 1920, "win_inc": 384}


def write_mel_roformer(folder: Path) -> Path:
    """As mlx-audio's converter writes it: the settings beside the weights, without a type."""
    from mlx_audio.sts.models.mel_roformer import MelRoFormer, MelRoFormerConfig

    mx.random.seed(33)
    _save(folder, MelRoFormer(MelRoFormerConfig(**MEL_ROFORMER)), MEL_ROFORMER, "vocals.1234")
    (folder / "config.json").rename(folder / "vocals.1234.config.json")
    return folder


def write_deepfilternet(folder: Path) -> Path:
    """In the subfolder `v3`, with torch's names, as it is published."""
    from mlx_audio.sts.models.deepfilternet.config import DeepFilterNet3Config
    from mlx_audio.sts.models.deepfilternet.network import DfNet

    mx.random.seed(34)
    network = DfNet(DeepFilterNet3Config.from_dict(DEEPFILTERNET))
    ends = np.cumsum(BAND_WIDTHS)
    inverse = np.zeros((len(BAND_WIDTHS), int(ends[-1])), np.float32)
    for band, (end, width) in enumerate(zip(ends, BAND_WIDTHS, strict=True)):
        inverse[band, end - width : end] = 1
    network.erb_fb = mx.array((inverse / BAND_WIDTHS[:, None]).T)
    network.mask.erb_inv_fb = mx.array(inverse)
    _save(folder / "v3", network, DEEPFILTERNET, "model", _torch_name)
    return folder


def write_mossformer(folder: Path) -> Path:
    """Of the size that the library has when it is called."""
    from mlx_audio.sts.models.mossformer2_se import MossFormer2SEConfig
    from mlx_audio.sts.models.mossformer2_se.mossformer2_se_wrapper import MossFormer2SE

    mx.random.seed(35)
    _save(folder, MossFormer2SE(MossFormer2SEConfig.from_dict(MOSSFORMER)), MOSSFORMER, "model")
    return folder


def _torch_name(name: str) -> str:
    """The library adds one to these numbers when it loads."""
    return re.sub(r"^(enc\.(?:erb_conv[123]|df_conv1)\.)(\d+)", lambda found: f"{found[1]}{int(found[2]) - 1}", name)


def _save(folder: Path, model: Any, config: dict[str, Any], weights: str, renamed: Any = lambda name: name) -> None:
    from mlx.utils import tree_flatten

    folder.mkdir(parents=True)
    tensors = {renamed(name): each for name, each in tree_flatten(model.parameters())}
    mx.save_safetensors(str(folder / f"{weights}.safetensors"), tensors)
    (folder / "config.json").write_text(json.dumps(config))
