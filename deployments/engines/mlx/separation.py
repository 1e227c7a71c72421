"""The separators and enhancers of mlx-audio, by the type of the model in the folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from deployments.engines.mlx.convolution import prepare_cpu_backend
from deployments.engines.mlx.enhancers import load_deepfilternet, load_mossformer
from deployments.engines.mlx.mel_roformer import MlxMelRoFormer
from deployments.engines.mlx.runtime import check_device
from deployments.engines.mlx.sam_audio import SamAudio
from deployments.engines.protocols import EngineSpec, SeparationEngine
from deployments.errors import fail

FAMILIES: Mapping[str, Callable[[EngineSpec], SeparationEngine]] = {
    "sam_audio": SamAudio,
    "mel_roformer": MlxMelRoFormer,
    "deepfilternet": load_deepfilternet,
    "mossformer2_se": load_mossformer,
}
"""mlx-audio's types. Its other models that separate do not fit chunks: DialogueSidon's two speakers may change places from
one chunk to the next."""


def load(spec: EngineSpec) -> SeparationEngine:
    """Loads the model in `spec.folder`.

    Option of all: `memory_share`. Options of SAM-Audio: `ode_opt` ({method, step_size}), `description`, `seed`, and
    `decode_frames`, the frames that the codec decodes at once, which bounds its memory. Raises `MotetError` (unsupported) for
    a model that is not in `FAMILIES`.
    """
    check_device(spec)
    prepare_cpu_backend()
    kind = kind_of(Path(spec.folder))
    if kind is None or kind not in FAMILIES:
        cause = f"mlx_separation has no model of the type {kind!r}."
        raise fail("unsupported", cause, f"It has {', '.join(FAMILIES)}.", param="source")
    return FAMILIES[kind](spec)


def kind_of(folder: Path) -> str | None:
    """mlx-audio's type of the model in a folder; None for one that it does not know."""
    from mlx_audio.sts.utils import infer_model_type_from_config

    config = _config_in(folder)
    if {"num_bands", "mask_estimator_depth"} <= config.keys():  # mlx-audio's converter writes no type
        return "mel_roformer"
    kind: str | None = infer_model_type_from_config(config)
    return kind


def _config_in(folder: Path) -> dict[str, Any]:
    files = [folder / "config.json", folder / "v3" / "config.json", *sorted(folder.glob("*.config.json"))]
    for file in files:
        if file.is_file():
            config: dict[str, Any] = json.loads(file.read_text())
            return config
    raise fail("not_found", f"{folder} has no config.json.", "Check the model's source.", param="source")
