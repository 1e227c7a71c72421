"""Noise out of a recording: the stem with the speech, of a model that separates speech from everything else."""

from __future__ import annotations

from deployments.engines.protocols import SeparationTraits
from deployments.errors import fail, quoted

SPEECH = "speech"
"""The stem of the models that enhance."""


def ensure_enhances(model: str, traits: SeparationTraits) -> None:
    """Raises `MotetError` (unsupported) for a separation model without a stem of speech."""
    if SPEECH not in traits.stems:
        cause = f"The model {quoted(model)} does not take noise out: its stems are {', '.join(traits.stems)}."
        raise fail("unsupported", cause, f"Name a model with the stem {SPEECH}, such as deepfilternet.", param="model")
