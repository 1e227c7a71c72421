"""Reads checkpoints that torch wrote, for the converters.

Such a file is a pickle. torch's reader with `weights_only=True` takes tensors, numbers, texts and containers from it, and
refuses everything else, so that nothing of the file is run. No service reads one: a converter is started by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from deployments.errors import MotetError, fail


def read_checkpoint(path: Path, allowed: Sequence[tuple[Any, str]] = ()) -> Any:
    """The content of a checkpoint, on the CPU. `allowed` are classes that it may also hold, with the names by which it
    refers to them. Raises `MotetError`: not_found without the file, invalid if it holds anything else."""
    if not path.is_file():
        raise fail("not_found", f"There is no file {path}.", "Name the published checkpoint.", param="source")
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        cause = f"{path} is not a checkpoint of tensors only: {reason}"
        raise fail("invalid", cause, "Convert only the published file of this model.", param="source") from error


def run(convert: Callable[..., Path], *names: str) -> None:
    """Runs a converter as a program, with the paths that its command line gives under these names. Ends the program with what
    is wrong, if something is."""
    if len(paths := sys.argv[1:]) != len(names):
        program: Any = sys.modules[convert.__module__]  # "__main__", whose spec has the module's name
        raise SystemExit(f"Usage: python -m {program.__spec__.name} {' '.join(names)}")
    try:
        convert(*map(Path, paths))
    except MotetError as error:
        raise SystemExit(str(error)) from error
