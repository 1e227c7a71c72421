"""Converts a published checkpoint of htdemucs, a `.th` file, to the safetensors that the engine reads.

    python -m deployments.weights.convert_htdemucs 955717e8-8726e21a.th models/htdemucs

The written file has the tensors unchanged, and the arguments of the network as JSON in its metadata: the format in which the
authors of Demucs publish it too.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from demucs_infer.htdemucs import HTDemucs
from safetensors.torch import save_file
from torch import Tensor

from deployments.errors import fail
from deployments.weights.torch_checkpoints import read_checkpoint, run

CLASS = "demucs.htdemucs.HTDemucs"
CONVERTED = "htdemucs.safetensors"


def convert(checkpoint: Path, folder: Path) -> Path:
    """Writes the checkpoint into the folder and returns the file. Raises `MotetError` as `read_checkpoint` does, and
    unsupported for another model of Demucs and for quantised weights."""
    package = read_checkpoint(checkpoint, [(HTDemucs, CLASS), (Fraction, "fractions.Fraction")])
    if not isinstance(package, dict) or package.get("klass") is not HTDemucs:
        raise _unsupported(checkpoint, "it is not an HTDemucs")
    if "__quantized" in package["state"]:
        raise _unsupported(checkpoint, "its weights are quantised")
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / CONVERTED, package["state"], list(package["args"]), package["kwargs"])
    return folder / CONVERTED


def write(path: Path, state: Mapping[str, Tensor], args: list[Any], kwargs: Mapping[str, Any]) -> None:
    """Writes the tensors of an `HTDemucs`, and the arguments that it was made with, less those that it no longer takes."""
    known = inspect.signature(HTDemucs).parameters
    settings = {name: value for name, value in kwargs.items() if name in known}
    encoded = {"args": json.dumps(args, default=_fraction), "kwargs": json.dumps(settings, default=_fraction)}
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    save_file(tensors, path, metadata={"klass": CLASS, **encoded})


def _fraction(value: Any) -> dict[str, Any]:
    assert isinstance(value, Fraction), value
    return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}


def _unsupported(checkpoint: Path, why: str) -> Exception:
    return fail("unsupported", f"{checkpoint} cannot be converted: {why}.", "Use htdemucs, htdemucs_ft or htdemucs_6s.")


if __name__ == "__main__":
    run(convert, "CHECKPOINT", "FOLDER")
