"""Band-split and mel-band RoFormers: music to the stems that a checkpoint names, in stereo.

Lu et al., "Music Source Separation with Band-Split RoPE Transformer", 2023 (https://arxiv.org/abs/2309.02612), with the
network of the package `bs-roformer-infer`. Wang et al., "Mel-Band RoFormer for Music Source Separation", 2023
(https://arxiv.org/abs/2310.01809), with that package's layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from bs_roformer.utils import get_model_from_config
from safetensors.torch import load_file
from torch import Tensor

from deployments.engines.lm.engine import options_on_this_thread
from deployments.engines.options import EngineOptions
from deployments.engines.protocols import Chunk, EngineSpec, Samples, SeparationTraits, Stems
from deployments.engines.roformer.config import RoformerConfig, read_config
from deployments.engines.roformer.mel_band import MelBandRoformer
from deployments.engines.roformer.mlx_layout import with_joined_projections
from deployments.engines.separation import from_stereo, in_equal_batches, in_stereo
from deployments.errors import fail

WEIGHTS = "model.safetensors"
COMPUTED = ("rotary_embed.freqs", "rotary_embed.cached_freqs")
"""Ends of the names of tensors that checkpoints may have, and that the network computes by itself."""


class RoformerEngine:
    """Separates music into the stems of its checkpoint. If that has one, the second stem is what remains, and both sum to the
    input. A mono chunk is heard as stereo with two equal channels, and its stems are the mean of both."""

    def __init__(self, network: Any, config: RoformerConfig, device: str) -> None:
        self._network = network.to(device).eval()
        self._device = device
        self._one_stem = config.target is not None
        self._traits = SeparationTraits(
            sample_rates=(config.sample_rate,),
            stems=config.stems,
            takes_description=False,
            takes_reference=False,
            most_channels=2,
            most_chunk_seconds=config.chunk_samples / config.sample_rate,
        )

    @property
    def traits(self) -> SeparationTraits:
        """The checkpoint's sample rate and stems. A chunk is at most as long as those that it was trained on."""
        return self._traits

    def separate(self, chunks: Sequence[Chunk]) -> list[Stems | Exception]:
        """The stems of each chunk, or an error in its place. Chunks of one length are one batch."""
        return in_equal_batches(chunks, self._traits, self._separate_batch)

    def _separate_batch(self, chunks: Sequence[Chunk]) -> list[Stems]:
        mixtures = in_stereo(chunks)
        with torch.inference_mode():
            separated = self._heard(torch.from_numpy(mixtures).to(self._device)).cpu().numpy()
        return [
            from_stereo(chunk, self._parts(mixture, parts))
            for chunk, mixture, parts in zip(chunks, mixtures, separated, strict=True)
        ]

    def _heard(self, mixtures: Tensor) -> Tensor:
        """The network's stems (chunks, stems, 2, n) of chunks (chunks, 2, n). The network gives whole hops only, and its
        transform mirrors half a window, so the chunks are padded with silence."""
        length, transform = mixtures.shape[2], self._network.stft_kwargs
        hops = -(-max(length, transform["n_fft"]) // transform["hop_length"])
        padded = torch.nn.functional.pad(mixtures, (0, hops * transform["hop_length"] - length))
        separated: Tensor = self._network(padded)
        return separated.reshape(len(mixtures), -1, 2, separated.shape[-1])[..., :length]

    def _parts(self, mixture: Samples, parts: Samples) -> dict[str, Samples]:
        found = np.concatenate((parts, (mixture - parts[0])[np.newaxis])) if self._one_stem else parts
        return dict(zip(self._traits.stems, found, strict=True))


def load(spec: EngineSpec) -> RoformerEngine:
    """The engine with the checkpoint in `spec.folder`, on device "cpu" or "cuda".

    Raises `MotetError`: unsupported for another device or another network, not_found if a file is missing, invalid if the
    weights do not fit the settings.
    """
    if spec.device not in ("cpu", "cuda"):
        raise fail("unsupported", f"{spec.model} does not run on {spec.device!r}.", "Use cpu or cuda.")
    options_on_this_thread(spec, EngineOptions)
    # The network's own attention calls what torch will rename.
    warnings.filterwarnings("ignore", message=r".*sdp_kernel", category=FutureWarning)
    config = read_config(Path(spec.folder))
    network = network_of(config)
    _load_weights(network, Path(spec.folder) / WEIGHTS)
    return RoformerEngine(network, config, spec.device)


def network_of(config: RoformerConfig) -> Any:
    """The network that the settings describe, with random weights. Raises `MotetError` (unsupported) for another kind, and
    for one that hears mono."""
    if not config.network.get("stereo"):
        raise fail("unsupported", "The checkpoint hears mono.", "Use one that hears stereo.", param="source")
    if config.kind == "bs_roformer":
        with warnings.catch_warnings():  # it tries its transform without a window
            warnings.simplefilter("ignore", UserWarning)
            return get_model_from_config("bs_roformer", SimpleNamespace(model=config.network))
    if config.kind == "mel_band_roformer":
        return MelBandRoformer.of(config.network)
    cause = f"There is no RoFormer of the type {config.kind!r}."
    raise fail("unsupported", cause, "Use bs_roformer or mel_band_roformer.", param="source")


def _load_weights(network: Any, file: Path) -> None:
    if not file.is_file():
        raise fail("not_found", f"{file} is missing.", "docs/separation.md says how to convert a checkpoint.")
    try:
        fit = network.load_state_dict(with_joined_projections(load_file(file)), strict=False)
    except Exception as error:
        raise _misfit(file, str(error).splitlines()[-1].strip()) from error
    if wrong := [name for name in (*fit.missing_keys, *fit.unexpected_keys) if not name.endswith(COMPUTED)]:
        raise _misfit(file, f"{len(wrong)} tensors are missing or unknown, such as {wrong[0]}")


def _misfit(file: Path, why: str) -> Exception:
    remedy = "Convert the checkpoint with the YAML file that was published with it."
    return fail("invalid", f"{file} does not fit its config.json: {why}", remedy, param="source")
