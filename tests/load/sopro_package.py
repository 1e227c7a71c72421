"""Sopro's own package for comparison, and folders of seeded random weights for it and for our engine.

The package needs torchaudio for mel filters and resampling only. Where torchaudio is missing, a stand-in gives it ours.
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from deployments.engines.sopro.encoders import power_mel, resample


class _Buffers(nn.Module):
    """A module with one named tensor, where torchaudio has it."""

    def __init__(self, name: str, tensor: Tensor) -> None:
        super().__init__()
        self.register_buffer(name, tensor)


class MelSpectrogram(nn.Module):
    """What the package uses of `torchaudio.transforms.MelSpectrogram`. Without weights its bands are random but alike."""

    def __init__(self, *, n_fft: int, hop_length: int, n_mels: int, power: float, **more: Any) -> None:
        super().__init__()
        self.hop, self.power = hop_length, power
        random = torch.Generator().manual_seed(n_fft)
        filters = torch.rand(n_fft // 2 + 1, n_mels, generator=random) / n_fft
        self.spectrogram = _Buffers("window", torch.hann_window(more.get("win_length") or n_fft))
        self.mel_scale = _Buffers("fb", filters)

    def forward(self, wav: Tensor) -> Tensor:
        """(batch, mels, frames) of (batch, samples)."""
        window, filters = self.spectrogram.window, self.mel_scale.fb
        assert isinstance(window, Tensor) and isinstance(filters, Tensor)
        return torch.stack([power_mel(row, window, filters, self.hop, self.power) for row in wav])


@contextmanager
def _stand_in() -> Iterator[None]:
    """Provides the parts of torchaudio that the package imports, unless the library is installed. After the context, importing
    the library fails again."""
    if importlib.util.find_spec("torchaudio"):
        yield
        return
    whole, transforms, functional = (ModuleType(f"torchaudio{part}") for part in ("", ".transforms", ".functional"))
    transforms.MelSpectrogram = MelSpectrogram  # type: ignore[attr-defined]
    transforms.Resample = nn.Identity  # type: ignore[attr-defined]
    functional.resample = lambda wav, source, target: torch.stack(  # type: ignore[attr-defined]
        [resample(row, source, target) for row in wav]
    )
    whole.transforms, whole.functional = transforms, functional  # type: ignore[attr-defined]
    modules = {module.__name__: module for module in (whole, transforms, functional)}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def load_package() -> ModuleType:
    """The package `sopro`. Raises ImportError when it is not installed."""
    with _stand_in():
        import sopro.model

    module: ModuleType = sopro.model
    return module


def write_random_model(folder: Path, config: Mapping[str, Any], texts: Sequence[str], *, seed: int = 0) -> None:
    """Writes a model of the given shape with seeded random weights, and a vocabulary trained on `texts`.

    The layers that training starts at zero (gates, output layers) get random values too, so that every path matters.
    """
    package = load_package()
    folder.mkdir(parents=True, exist_ok=True)
    shape = package.SoproConfig.from_dict(dict(config))
    torch.manual_seed(seed)
    networks = {
        "model": package.SoproModel(shape.model),
        "semantic_encoder": package.SemanticEncoder(shape.semantic_encoder),
        "speaker_encoder": package.SpeakerEncoder(shape.speaker_encoder),
        "vocoder": package.Vocoder(shape.vocoder),
    }
    with torch.no_grad():
        for name, parameter in networks["model"].named_parameters():
            if name.endswith("_scale.scale"):
                parameter.fill_(0.3)
            elif "style_prefix.queries" in name:
                parameter.normal_()
        networks["semantic_encoder"].pos_emb.normal_(std=0.1)
    for name, network in networks.items():
        save_file(
            {key: tensor.contiguous() for key, tensor in network.state_dict().items()}, folder / f"{name}.safetensors"
        )
    values = asdict(shape)
    mels = shape.model.acoustic_mel_n_mels
    values["model"] |= {"acoustic_mel_mean": [-4.0] * mels, "acoustic_mel_std": [1.5] * mels}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "tokenizer.model").write_bytes(_vocabulary(texts, shape.model.text_vocab_size))


def _vocabulary(texts: Sequence[str], most: int) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=most,
        hard_vocab_limit=False,
        user_defined_symbols=["<|lang_en|>", "<|lang_pt|>", "<|lang_fr|>", "<|lang_de|>"],
        minloglevel=2,
    )
    return model.getvalue()
