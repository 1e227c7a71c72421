"""The configuration of an IndexTTS-2.5 model, from its `config.json`: the published `config.yaml` as JSON, with sections for
the vocoder and for the network that encodes clips."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from deployments.engines.lm.checkpoint import shape_of

FRAMES_PER_FEATURE = 1.72
"""Mel frames (256 samples at 22,050 Hz) for each feature of a fiftieth of a second, as in the training."""
FEATURES_PER_CODE = 2
CODES_PER_SECOND = 25.0

Section = Mapping[str, Any]

VOCODER: Section = {
    "resblock": "1",
    "num_mels": 80,
    "upsample_rates": [4, 4, 2, 2, 2, 2],
    "upsample_kernel_sizes": [8, 8, 4, 4, 4, 4],
    "upsample_initial_channel": 1536,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
    "activation": "snakebeta",
    "snake_logscale": True,
    "use_bias_at_final": False,
    "use_tanh_at_final": False,
}
"""BigVGAN v2, 22 kHz, 80 bands, 256 samples for each frame."""


@dataclass(frozen=True, slots=True)
class IndexDecoderConfig:
    """The language model over codes. `number_mel_codes` includes the begin and end codes."""

    layers: int = 24
    model_dim: int = 1280
    heads: int = 20
    max_text_tokens: int = 600
    max_mel_tokens: int = 1815
    number_text_tokens: int = 60509
    number_mel_codes: int = 8194
    start_mel_token: int = 8192
    stop_mel_token: int = 8193


@dataclass(frozen=True, slots=True)
class IndexConfig:
    """The whole configuration. The sections are those of the package's modules."""

    decoder: IndexDecoderConfig
    gpt: Section
    semantic_codec: Section
    s2mel: Section
    vocoder: Section
    semantic: Section
    emotions: tuple[int, ...]

    @property
    def sample_rate(self) -> int:
        """The sample rate of the audio, in Hz."""
        return int(self.s2mel["preprocess_params"]["sr"])

    @property
    def hop(self) -> int:
        """Samples in a mel frame."""
        return int(self.s2mel["preprocess_params"]["spect_params"]["hop_length"])

    @property
    def mels(self) -> int:
        """Bands of the mel spectrogram."""
        return int(self.s2mel["preprocess_params"]["spect_params"]["n_mels"])


def read(folder: Path) -> IndexConfig:
    """Reads `config.json`."""
    values = json.loads((folder / "config.json").read_text())
    return IndexConfig(
        decoder=shape_of(IndexDecoderConfig, values["gpt"]),
        gpt=values["gpt"],
        semantic_codec=values["semantic_codec"],
        s2mel=values["s2mel"],
        vocoder=values.get("bigvgan", VOCODER),
        semantic=values.get("w2v_bert", {}),
        emotions=tuple(values["emo_num"]),
    )


def as_attributes(section: Any) -> Any:
    """A section with its keys as attributes, recursively."""
    if isinstance(section, Mapping):
        return SimpleNamespace(**{name: as_attributes(value) for name, value in section.items()})
    return section
