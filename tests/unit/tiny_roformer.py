"""Small RoFormers with random weights, in the published formats and in that of the engine, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RATE = 44_100
NETWORK: dict[str, Any] = {
    "dim": 16,
    "depth": 1,
    "stereo": True,
    "time_transformer_depth": 1,
    "freq_transformer_depth": 1,
    "dim_head": 8,
    "heads": 2,
    "stft_n_fft": 512,
    "stft_hop_length": 128,
    "stft_win_length": 512,
    "mask_estimator_depth": 2,
}
BANDS: dict[str, dict[str, Any]] = {
    "bs_roformer": {"freqs_per_bands": (32, 32, 64, 129), "dim_freqs_in": 257},
    "mel_band_roformer": {"num_bands": 8, "sample_rate": RATE, "dim_freqs_in": 257},
}
FOUR = ("drums", "bass", "other", "vocals")


def settings(kind: str, target: str | None) -> dict[str, Any]:
    """The published settings, as the YAML file has them: of one stem if there is a target, else of four."""
    stems = 1 if target else len(FOUR)
    return {
        "audio": {"chunk_size": 8 * RATE, "sample_rate": RATE},
        "model": NETWORK | BANDS[kind] | {"num_stems": stems},
        "training": {"instruments": ["vocals", "other"] if target else list(FOUR), "target_instrument": target},
    }


def tensors(kind: str, target: str | None) -> dict[str, Tensor]:
    """The same weights every time."""
    from deployments.engines.roformer.config import RoformerConfig
    from deployments.engines.roformer.engine import network_of

    network = settings(kind, target)["model"]
    config = RoformerConfig(kind, RATE, 8 * RATE, FOUR, target, network)
    with torch.random.fork_rng():
        torch.manual_seed(32)
        state: dict[str, Tensor] = network_of(config).state_dict()
        return state


def write_published(folder: Path, kind: str, target: str | None) -> tuple[Path, Path]:
    """Writes the checkpoint and its YAML file, which has Python's tuples as the published ones do."""
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, config = folder / "model.ckpt", folder / "model.yaml"
    torch.save({"state_dict": tensors(kind, target)}, checkpoint)
    config.write_text(yaml.dump(settings(kind, target)))
    return checkpoint, config


def write(folder: Path, kind: str, target: str | None = None) -> Path:
    """Fills the folder as the converter does."""
    from deployments.weights import convert_roformer

    return convert_roformer.convert(*write_published(folder / "published", kind, target), folder / "model")
