"""A small htdemucs with random weights in the published format, for tests."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

RATE = 44_100
SEGMENT = Fraction(39, 5)
"""In seconds, as published."""
SETTINGS: dict[str, Any] = {
    "sources": ["drums", "bass", "other", "vocals"],
    "channels": 8,
    "dconv_comp": 2,
    "t_layers": 1,
    "t_heads": 2,
    "t_hidden_scale": 1.0,
    "segment": SEGMENT,
}


def network() -> Any:
    """The same network every time."""
    from demucs_infer.htdemucs import HTDemucs

    with torch.random.fork_rng():
        torch.manual_seed(31)
        return HTDemucs(**SETTINGS).eval()


def write(folder: Path) -> Path:
    """Fills the folder with the network's weights."""
    from deployments.weights import convert_htdemucs

    folder.mkdir(parents=True, exist_ok=True)
    convert_htdemucs.write(folder / convert_htdemucs.CONVERTED, network().state_dict(), [], SETTINGS)
    return folder


def write_published(path: Path) -> Path:
    """Writes the network as the authors published it: a pickle that names its class by the authors' package."""
    from demucs_infer.htdemucs import HTDemucs

    made = network()
    package = {"klass": HTDemucs, "args": (), "kwargs": SETTINGS | {"unused": 1}, "state": made.state_dict()}
    # `demucs_infer` answers to the name of the authors' package too, but the class keeps its own.
    name, HTDemucs.__module__ = HTDemucs.__module__, "demucs.htdemucs"
    try:
        torch.save(package, path)
    finally:
        HTDemucs.__module__ = name
    return path
