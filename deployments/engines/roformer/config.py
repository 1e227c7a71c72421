"""The `config.json` of a RoFormer: what its published YAML says, as `deployments/weights/convert_roformer.py` writes it, or
that of mlx-audio's converter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.engines.roformer.mlx_layout import in_own_layout, is_mlx_layout
from deployments.errors import fail

CONFIG = "config.json"
REST = "rest"
"""The name of what a model of one stem leaves, if its checkpoint names none."""


@dataclass(frozen=True, slots=True)
class RoformerConfig:
    """A checkpoint's settings. `network` are the arguments of its network, and `chunk_samples` the length that it was trained
    on, at `sample_rate` Hz. A checkpoint with a `target` has only that one of the `instruments`."""

    kind: str
    sample_rate: int
    chunk_samples: int
    instruments: tuple[str, ...]
    target: str | None
    network: Mapping[str, Any]

    @property
    def stems(self) -> tuple[str, ...]:
        """The instruments; or the target, and the name of all that is not."""
        if self.target is None:
            return self.instruments
        others = [name for name in self.instruments if name != self.target]
        return self.target, others[0] if len(others) == 1 else REST


def read_config(folder: Path) -> RoformerConfig:
    """The settings of the checkpoint in a folder. Raises `MotetError`: not_found without `config.json`, invalid if it lacks
    something."""
    file = folder / CONFIG
    if not file.is_file():
        raise fail("not_found", f"{file} is missing.", "docs/separation.md says how to convert a checkpoint.")
    content = json.loads(file.read_text())
    try:
        if is_mlx_layout(content):
            content = in_own_layout(content)
        return RoformerConfig(
            kind=content["model_type"],
            sample_rate=int(content["sample_rate"]),
            chunk_samples=int(content["chunk_samples"]),
            instruments=tuple(content["instruments"]),
            target=content["target_instrument"],
            network=content["model"],
        )
    except KeyError as error:
        cause = f"{file} has no {error}."
        raise fail("invalid", cause, "docs/separation.md says how to convert a checkpoint.") from error
