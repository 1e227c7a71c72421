"""Reads a model's folder: weights from one or several safetensors files, and dataclasses from sections of its
configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from safetensors import safe_open
from torch import Tensor

from deployments.errors import fail

Weights = Mapping[str, Tensor]
"""Tensors by their name in the checkpoint."""

ShapeT = TypeVar("ShapeT")


def shape_of(kind: type[ShapeT], section: Mapping[str, Any] | None) -> ShapeT:
    """A dataclass from a section of a configuration. Absent keys have their defaults; unknown keys, such as those for
    training, are ignored."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in (section or {}).items() if name in known})


class FolderWeights(Mapping[str, Tensor]):
    """Tensors by name, each read from the file on access, so that loading a model does not hold its weights twice."""

    def __init__(self, files: list[Path], device: str) -> None:
        self._open = ExitStack()
        opened = [self._open.enter_context(safe_open(file, "pt", device)) for file in files]
        self._where = {name: file for file in opened for name in file.keys()}  # noqa: SIM118 (not a mapping)

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._where[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


def load_weights(folder: Path, device: str) -> FolderWeights:
    """All `*.safetensors` of the folder. Raises `MotetError` (invalid) if there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise fail("invalid", f"{folder} contains no safetensors file.", "Check the model's source.", param="source")
    return FolderWeights(files, device)
