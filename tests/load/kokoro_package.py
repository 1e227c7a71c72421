"""The model of the `kokoro` package on the same weights, for comparison with our engine.

Installed without its dependencies (requirements-reference.txt), it needs transformers only. Importing the package
itself would bring misaki and spaCy, so its modules are imported behind a stand-in for it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file


def module(name: str) -> Any:
    """A module of the package. Raises `ImportError` where it is not installed."""
    if "kokoro" not in sys.modules:
        found = importlib.util.find_spec("kokoro")
        if found is None or found.submodule_search_locations is None:
            raise ImportError(
                "the kokoro package is not installed: pip install --no-deps -r requirements-reference.txt"
            )
        stand_in = types.ModuleType("kokoro")
        stand_in.__path__ = list(found.submodule_search_locations)
        sys.modules["kokoro"] = stand_in
    importlib.import_module("loguru").logger.disable("kokoro")
    return importlib.import_module(f"kokoro.{name}")


def load(folder: Path) -> Any:
    """The package's `KModel` with the weights in `folder`: called with phonemes and a style (1, 256), it gives samples."""
    config = json.loads((folder / "config.json").read_text())
    with warnings.catch_warnings(), patch.object(torch, "load", return_value={}):
        warnings.simplefilter("ignore")  # PyTorch has moved on from the weight normalisation that it uses
        model = module("model").KModel(repo_id="none", config=config, model="none")
    state = load_file(next(folder.glob("*.safetensors")))
    missing, unexpected = model.load_state_dict(state, strict=False)
    # Only the identity affine of AdaIN is left out of the files.
    if unexpected or any(".norm." not in name for name in missing):
        raise RuntimeError(f"the package's model is another one: {unexpected} {missing}")
    return model.eval()


def voice(folder: Path, name: str) -> torch.Tensor:
    """A voice's styles by number of phonemes, (510, 1, 256)."""
    styles: torch.Tensor = load_file(folder / "voices" / f"{name}.safetensors")["voice"]
    return styles
