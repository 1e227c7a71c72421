"""The network of Mel-Band RoFormer, from the layers of `bs-roformer-infer`, whose own network has bands that do not overlap.

Published checkpoints load into it with their names. (The package `melband-roformer-infer` has the same network and needs
librosa, with a compiler for Python, for one table of mel filters.)
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from bs_roformer.bs_roformer import BandSplit, MaskEstimator, Transformer
from rotary_embedding_torch import RotaryEmbedding
from torch import Tensor, nn

from deployments.audio.mel_filters import mel_filters

CHANNELS = 2


class MelBandRoformer(nn.Module):
    """Masks for the spectrum of stereo sound, from bands that are the triangles of a mel scale and overlap. Where bands
    overlap, the mean of their masks counts."""

    bins: Tensor
    bands_per_bin: Tensor

    def __init__(
        self,
        dim: int,
        depth: int,
        num_stems: int = 1,
        time_transformer_depth: int = 2,
        freq_transformer_depth: int = 2,
        num_bands: int = 60,
        dim_head: int = 64,
        heads: int = 8,
        sample_rate: int = 44_100,
        stft_n_fft: int = 2048,
        stft_hop_length: int = 512,
        stft_win_length: int = 2048,
        stft_normalized: bool = False,
        mask_estimator_depth: int = 1,
        mlp_expansion_factor: int = 4,
    ) -> None:
        super().__init__()
        self.stft_kwargs: dict[str, Any] = {
            "n_fft": stft_n_fft,
            "hop_length": stft_hop_length,
            "win_length": stft_win_length,
            "normalized": stft_normalized,
        }
        in_band = bands(sample_rate, stft_n_fft, num_bands)
        # A row of the spectrum is a bin of a channel, left and right by turns, as the published code lays them out.
        rows = [CHANNELS * bin_ + channel for band in in_band for bin_ in band for channel in range(CHANNELS)]
        counts = torch.bincount(torch.tensor(rows), minlength=CHANNELS * (stft_n_fft // 2 + 1))
        self.register_buffer("bins", torch.tensor(rows), persistent=False)
        self.register_buffer("bands_per_bin", counts[:, None], persistent=False)
        self.register_buffer("window", torch.hann_window(stft_win_length), persistent=False)
        sizes = tuple(2 * CHANNELS * len(band) for band in in_band)
        self.band_split = BandSplit(dim=dim, dim_inputs=sizes)
        shared = {"dim": dim, "heads": heads, "dim_head": dim_head}
        in_time, in_frequency = RotaryEmbedding(dim=dim_head), RotaryEmbedding(dim=dim_head)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    Transformer(depth=time_transformer_depth, rotary_embed=in_time, **shared),
                    Transformer(depth=freq_transformer_depth, rotary_embed=in_frequency, **shared),
                ]
            )
            for _ in range(depth)
        )
        # Here a depth counts the hidden layers, and in the package all layers.
        masks = {"dim": dim, "dim_inputs": sizes, "depth": mask_estimator_depth + 1}
        self.mask_estimators = nn.ModuleList(
            MaskEstimator(**masks, mlp_expansion_factor=mlp_expansion_factor) for _ in range(num_stems)
        )

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> MelBandRoformer:
        """The network with published settings, less those that only training uses."""
        known = inspect.signature(cls).parameters
        return cls(**{name: value for name, value in settings.items() if name in known})

    def forward(self, sound: Tensor) -> Tensor:
        """The stems (batch, stems, 2, n) of sound (batch, 2, n), n whole hops."""
        batch, _, length = sound.shape
        transform = self.stft_kwargs | {"window": self.window}
        spectrum = torch.stft(sound.reshape(batch * CHANNELS, length), **transform, return_complex=True)
        frames = spectrum.shape[-1]
        rows = spectrum.view(batch, CHANNELS, -1, frames).transpose(1, 2).reshape(batch, -1, frames)
        masks = self._masks(rows)
        mean = torch.zeros(batch, masks.shape[1], rows.shape[1], frames, dtype=masks.dtype, device=masks.device)
        mean.index_add_(2, self.bins, masks)
        masked = rows[:, None] * (mean / self.bands_per_bin)
        by_channel = masked.view(batch, -1, spectrum.shape[1], CHANNELS, frames).transpose(2, 3)
        stems = torch.istft(by_channel.reshape(-1, spectrum.shape[1], frames), **transform)
        return stems.view(batch, -1, CHANNELS, stems.shape[-1])

    def _masks(self, rows: Tensor) -> Tensor:
        """The masks (batch, stems, rows in bands, frames), complex, of a spectrum (batch, rows, frames)."""
        batch, _, frames = rows.shape
        in_bands = torch.view_as_real(rows[:, self.bins])
        x = self.band_split(in_bands.transpose(1, 2).reshape(batch, frames, -1))
        bands_count = x.shape[2]
        pairs: Any = self.layers
        for in_time, in_frequency in pairs:
            across = x.transpose(1, 2).reshape(batch * bands_count, frames, -1)
            x = in_time(across)[0].view(batch, bands_count, frames, -1).transpose(1, 2)
            x = in_frequency(x.reshape(batch * frames, bands_count, -1))[0].view(batch, frames, bands_count, -1)
        masks = torch.stack([estimate(x) for estimate in self.mask_estimators], dim=1)
        masks = masks.view(batch, masks.shape[1], frames, -1, 2).transpose(2, 3)
        return torch.view_as_complex(masks.contiguous())


def bands(sample_rate: int, fft_samples: int, count: int) -> list[list[int]]:
    """The bins of each band. The first and the last bin are in the first and the last band, though the triangles end
    there."""
    inside = mel_filters(sample_rate, fft_samples, count) > 0
    inside[0, 0] = inside[-1, -1] = True
    assert inside.any(axis=1).all(), "a bin is in no band"
    return [inside[:, band].nonzero()[0].tolist() for band in range(count)]
