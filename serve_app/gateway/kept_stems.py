"""Finished samples of stems as an npz file, for the finished parts of a job."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from deployments.tasks.separation import Merged


def to_npz(merged: Merged) -> bytes:
    """All samples, to the bit. There is no gap in them."""
    file = io.BytesIO()
    stems: dict[str, Any] = {f"stem{number}": samples for number, samples in enumerate(merged.stems.values())}
    arrays: Mapping[str, Any] = {"names": np.array(list(merged.stems)), "sample_rate": np.array(merged.sample_rate)}
    np.savez(file, **arrays, **stems)
    return file.getvalue()


def from_npz(data: bytes) -> Merged:
    """What `to_npz` wrote."""
    with np.load(io.BytesIO(data), allow_pickle=False) as kept:
        stems = {str(name): kept[f"stem{number}"] for number, name in enumerate(kept["names"])}
        return Merged(stems, int(kept["sample_rate"]))
