"""Converts a published checkpoint of a RoFormer to the files that the engine reads.

    python -m deployments.weights.convert_roformer model.ckpt model.yaml models/vocals

The checkpoint is a pickle of tensors, and the YAML file has the settings of its training, of which the engine needs a part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save_file
from torch import Tensor

from deployments.engines.roformer.config import CONFIG
from deployments.engines.roformer.engine import WEIGHTS
from deployments.errors import fail
from deployments.weights.torch_checkpoints import read_checkpoint, run

NESTED = ("state_dict", "state", "model_state_dict")
"""Where training code keeps the tensors, if not at the top."""


class _SettingsLoader(yaml.SafeLoader):
    """YAML with Python's tuples, which the published files have, and with nothing else of Python."""


def _sequence(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> list[Any]:
    return loader.construct_sequence(node, deep=True)


_SettingsLoader.add_constructor("tag:yaml.org,2002:python/tuple", _sequence)


def convert(checkpoint: Path, settings: Path, folder: Path) -> Path:
    """Writes the folder and returns it. Raises `MotetError` as `read_checkpoint` does, and invalid for settings that lack
    something."""
    tensors = _tensors(checkpoint)
    config = config_of(settings)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=2))
    return folder


def config_of(settings: Path) -> dict[str, Any]:
    """The engine's `config.json` for a published YAML file."""
    try:
        content = yaml.load(settings.read_text(), Loader=_SettingsLoader)  # noqa: S506 - a safe loader, and tuples
        network, training, audio = content["model"], content["training"], content.get("audio", {})
        inference = content.get("inference", {})
        return {
            "model_type": "mel_band_roformer" if "num_bands" in network else "bs_roformer",
            "sample_rate": audio.get("sample_rate", network.get("sample_rate", 44_100)),
            "chunk_samples": audio["chunk_size"] if "chunk_size" in audio else inference["chunk_size"],
            "instruments": training["instruments"],
            "target_instrument": training.get("target_instrument"),
            "model": network,
        }
    except (KeyError, yaml.YAMLError) as error:
        cause = f"{settings} cannot be used: {f'it has no {error}' if isinstance(error, KeyError) else error}."
        raise fail("invalid", cause, "Use the YAML file that was published with the checkpoint.") from error


def _tensors(checkpoint: Path) -> dict[str, Tensor]:
    content: Any = read_checkpoint(checkpoint)
    for name in NESTED:
        content = content[name] if isinstance(content, Mapping) and name in content else content
    if not isinstance(content, Mapping) or not all(isinstance(each, Tensor) for each in content.values()):
        raise fail("invalid", f"{checkpoint} has no table of tensors.", "Use the published checkpoint.")
    return {name: tensor.detach().clone().contiguous() for name, tensor in content.items()}


if __name__ == "__main__":
    run(convert, "CHECKPOINT", "SETTINGS", "FOLDER")
