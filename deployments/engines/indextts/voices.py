"""An IndexTTS voice, computed once from a clip: speaker, w2v-BERT features, mel frames, and the clip's emotion."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from deployments.audio.resample import resample
from deployments.engines.indextts import package_networks
from deployments.engines.indextts.acoustic import AcousticNetworks
from deployments.engines.indextts.config import IndexConfig
from deployments.engines.protocols import Samples
from deployments.errors import fail

HEARING_RATE = 16_000
LONGEST_SECONDS = 15.0
SHORTEST_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class IndexVoice:
    """What every stream of this voice starts with; shared, and never changed.

    `style` (192,) is the speaker, `emotion` (dim,) the emotion; `mel` (mels, frames) is the clip, and `condition` (frames,
    channels) its content.
    """

    style: Tensor
    emotion: Tensor
    mel: Tensor
    condition: Tensor


@dataclass(frozen=True, slots=True)
class ClipFeatures:
    """The features of a clip: speaker `style` (192,), `features` (n, 1024) at 50 Hz, `mel` (mels, frames)."""

    style: Tensor
    features: Tensor
    mel: Tensor


def prepared(file: Path, device: str) -> ClipFeatures:
    """Reads stored features: a safetensors file with `style`, `features` and `mel`."""
    tensors = load_file(file, device)
    return ClipFeatures(tensors["style"], tensors["features"], tensors["mel"])


def voice_of(clip: ClipFeatures, front: Any, sound: AcousticNetworks) -> IndexVoice:
    """The voice for a clip's features."""
    features, size = clip.features[None], torch.tensor([clip.features.shape[-1]])
    return IndexVoice(
        style=clip.style,
        emotion=front.get_emovec(features, size)[0],
        mel=clip.mel,
        condition=sound.regulate_length(clip.features, clip.mel.shape[-1]),
    )


class ClipEncoder:
    """The networks that encode a clip, loaded at the first use."""

    def __init__(self, folder: Path, config: IndexConfig, device: str) -> None:
        self._folder, self._config, self._device = folder, config, device

    @property
    def available(self) -> bool:
        """Whether the folder has these networks."""
        return all((self._folder / f"{name}.safetensors").is_file() for name in ("speaker", "semantic", "statistics"))

    @cached_property
    def _speaker(self) -> Any:
        return package_networks.speaker_of(package_networks.weights_of(self._folder, "speaker", self._device))

    @cached_property
    def _semantic(self) -> Any:
        return package_networks.semantic_of(
            self._config, package_networks.weights_of(self._folder, "semantic", self._device)
        )

    @cached_property
    def _statistics(self) -> dict[str, Tensor]:
        return package_networks.weights_of(self._folder, "statistics", self._device)

    def encode(self, clip: Samples, rate: int) -> ClipFeatures:
        """The features of a mono clip at `rate` Hz; of a longer clip the first 15 s. Raises `MotetError`: invalid for a clip
        that is too short, unsupported if the folder lacks the networks."""
        if not self.available:
            raise fail(
                "unsupported",
                "This model's folder has no networks to encode clips.",
                "Add speaker.safetensors and semantic.safetensors, or use a voice of the folder.",
                param="voice",
            )
        seconds = len(clip) / rate
        if seconds < SHORTEST_SECONDS:
            raise fail(
                "invalid", f"The clip is {seconds:.1f} s long.", "Give 5 to 15 s of one person speaking.", param="voice"
            )
        from indextts25.utils.common import resample as lowered

        own = self._config.sample_rate
        sound = torch.tensor(resample(clip[: int(LONGEST_SECONDS * rate)], rate, own))
        low = lowered(sound[None], own, HEARING_RATE)
        spectrum = self._config.s2mel["preprocess_params"]["spect_params"]
        return ClipFeatures(self._style(low), self._features(low), log_mel(sound, spectrum, own))

    def _style(self, clip: Tensor) -> Tensor:
        from indextts25.utils.common import kaldi_fbank

        bands = kaldi_fbank(clip, num_mel_bins=80, sample_frequency=float(HEARING_RATE))
        style: Tensor = self._speaker((bands - bands.mean(dim=0, keepdim=True))[None])[0]
        return style

    def _features(self, clip: Tensor) -> Tensor:
        from transformers import SeamlessM4TFeatureExtractor

        given = SeamlessM4TFeatureExtractor()(clip.cpu().numpy(), sampling_rate=HEARING_RATE, return_tensors="pt").to(
            self._device
        )
        heard = self._semantic(**given, output_hidden_states=True).hidden_states[-1][0]
        features: Tensor = (heard - self._statistics["mean"]) / self._statistics["var"].sqrt()
        return features


def log_mel(sound: Tensor, spectrum: Any, rate: int) -> Tensor:
    """The log-magnitude mel spectrogram (mels, frames) of mono samples (n,), one frame for each hop."""
    from transformers.audio_utils import mel_filter_bank

    size, hop = spectrum["n_fft"], spectrum["hop_length"]
    filters = mel_filter_bank(
        size // 2 + 1, spectrum["n_mels"], float(spectrum["fmin"]), rate / 2, rate, norm="slaney", mel_scale="slaney"
    )
    around = (size - hop) // 2
    row = F.pad(sound[None], (around, around), mode="reflect")[0]
    window = torch.hann_window(spectrum["win_length"])
    bins = torch.stft(row, size, hop, window=window, center=False, return_complex=True)
    magnitudes = (bins.real**2 + bins.imag**2 + 1e-9).sqrt()
    return (torch.tensor(np.ascontiguousarray(filters.T), dtype=torch.float32) @ magnitudes).clamp_min(1e-5).log()
