"""Hybrid Transformer Demucs: music to its vocals, drums, bass and the rest, in stereo at 44.1 kHz.

Rouard, Massa and Défossez, "Hybrid Transformers for Music Source Separation", 2023 (https://arxiv.org/abs/2211.08553). The
network is that of the package `demucs-infer`; nothing else of it is used. It hears segments of one length, 7.8 s, so a chunk
is at most a segment, and a shorter one ends with silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from demucs_infer.safetensors import load_safetensors_model
from torch import Tensor

from deployments.engines.lm.engine import options_on_this_thread
from deployments.engines.options import EngineOptions
from deployments.engines.protocols import Chunk, EngineSpec, SeparationTraits, Stems
from deployments.engines.separation import from_stereo, in_equal_batches, in_stereo
from deployments.errors import fail

LEAST_DEVIATION = 1e-8
"""Added to a chunk's standard deviation, as the published code does, so that silence stays silence."""


@dataclass(frozen=True, kw_only=True)
class HtdemucsOptions(EngineOptions):
    """`options` of an htdemucs model."""

    checkpoint: Annotated[str, "The file with the weights, if the folder has several."] = ""


class HtdemucsEngine:
    """Separates music into the stems that the checkpoint names. A mono chunk is heard as stereo with two equal channels, and
    its stems are the mean of both."""

    def __init__(self, network: Any, device: str) -> None:
        self._network = network.to(device).eval()
        self._device = device
        self._traits = SeparationTraits(
            sample_rates=(int(network.samplerate),),
            stems=tuple(network.sources),
            takes_description=False,
            takes_reference=False,
            most_channels=2,
            most_chunk_seconds=float(network.segment),
        )

    @property
    def traits(self) -> SeparationTraits:
        """The sample rate, the stems and the segment of the checkpoint."""
        return self._traits

    def separate(self, chunks: Sequence[Chunk]) -> list[Stems | Exception]:
        """The stems of each chunk, or an error in its place. Chunks of one length are one batch."""
        return in_equal_batches(chunks, self._traits, self._separate_batch)

    def _separate_batch(self, chunks: Sequence[Chunk]) -> list[Stems]:
        mixtures = torch.from_numpy(in_stereo(chunks)).to(self._device)
        with torch.inference_mode():
            separated = normalized(self._network, mixtures).cpu().numpy()
        names = self._traits.stems
        return [
            from_stereo(chunk, dict(zip(names, parts, strict=True)))
            for chunk, parts in zip(chunks, separated, strict=True)
        ]


def normalized(network: Any, mixtures: Tensor) -> Tensor:
    """The network's stems (chunks, stems, 2, n) of chunks (chunks, 2, n), which it hears with mean 0 and deviation 1.

    The published code measures both over a whole track. Here a chunk is measured by itself, because its neighbours may be on
    another machine. The network normalises what it hears once more, so only rounding depends on this.
    """
    mono = mixtures.mean(dim=1, keepdim=True)
    mean = mono.mean(dim=2, keepdim=True)
    deviation = mono.std(dim=2, keepdim=True, correction=0) + LEAST_DEVIATION
    separated: Tensor = network((mixtures - mean) / deviation)
    return separated * deviation[:, None] + mean[:, None]


def load(spec: EngineSpec) -> HtdemucsEngine:
    """The engine with the checkpoint in `spec.folder`, on device "cpu" or "cuda".

    Raises `MotetError`: unsupported for another device, not_found without a checkpoint, invalid if there are several and the
    options name none, or if the file is not one of htdemucs.
    """
    if spec.device not in ("cpu", "cuda"):
        raise fail("unsupported", f"{spec.model} does not run on {spec.device!r}.", "Use cpu or cuda.")
    path = _checkpoint(Path(spec.folder), options_on_this_thread(spec, HtdemucsOptions))
    try:
        network: Any = load_safetensors_model(path)
    except Exception as error:
        cause = f"{path} is not an htdemucs checkpoint with its settings: {error}"
        raise fail("invalid", cause, "docs/separation.md says which files fit.", param="source") from error
    return HtdemucsEngine(network, spec.device)


def _checkpoint(folder: Path, options: HtdemucsOptions) -> Path:
    files = sorted(path for path in folder.glob("*.safetensors") if options.checkpoint in ("", path.name))
    if not files:
        wanted = options.checkpoint or "*.safetensors"
        raise fail(
            "not_found", f"{folder} has no {wanted}.", "docs/separation.md says which files fit.", param="source"
        )
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        cause = f"{folder} has several checkpoints: {names}."
        raise fail("invalid", cause, "Name one with the option checkpoint.", param="options")
    return files[0]
