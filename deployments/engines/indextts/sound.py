"""From codes to samples, several pieces of text together: features, mel frames by flow matching, and the vocoder.

All networks are the package's; rows of different lengths share a batch (`ragged.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from deployments.engines.base import Samples
from deployments.engines.indextts.config import FEATURES_PER_CODE, FRAMES_PER_FEATURE, IndexConfig
from deployments.engines.indextts.ragged import Fill, last, mirrored, padded, ragged, zeros


@dataclass(frozen=True, slots=True)
class Spoken:
    """One piece's codes (n,) and what they are heard with.

    `condition` (frames, channels), `mel` (mels, frames) and `style` (192,) are the clip's; `noise` (mels, frames) is what the
    piece's own frames, `frames_of(n, duration)` of them, are made of.
    """

    codes: Tensor
    condition: Tensor
    mel: Tensor
    style: Tensor
    noise: Tensor


def frames_of(codes: int, duration: float) -> int:
    """Mel frames that so many codes last; `duration` 2 is twice as slow as the voice's own pace."""
    return int(FEATURES_PER_CODE * codes * FRAMES_PER_FEATURE * duration)


class SoundNetworks:
    """The networks behind the language model. `steps` is how many the solver takes; `guidance` is how much further it goes
    from what it would make without a voice and a text."""

    def __init__(
        self,
        config: IndexConfig,
        codec: Any,
        regulator: Any,
        estimator: Any,
        vocoder: Any,
        *,
        steps: int,
        guidance: float,
    ) -> None:
        from indextts25.s2mel.modules.bigvgan.alias_free_activation.torch.filter import LowPassFilter1d
        from indextts25.s2mel.modules.bigvgan.alias_free_activation.torch.resample import UpSample1d
        from indextts25.s2mel.modules.encodec import SConv1d
        from indextts25.s2mel.modules.gpt_fast.model import Transformer

        self.config, self.regulator = config, regulator
        self._codec, self._estimator, self._vocoder = codec, estimator, vocoder
        self._steps, self._guidance = steps, guidance
        convolutions: dict[type[nn.Module], Fill] = {nn.Conv1d: zeros, nn.ConvTranspose1d: zeros}
        self._codec_fills = convolutions
        self._estimator_fills: dict[type[nn.Module], Fill] = {SConv1d: mirrored}
        self._attention = Transformer
        self._vocoder_fills = convolutions | {UpSample1d: last, LowPassFilter1d: last}

    def speak(self, rows: Sequence[Spoken]) -> list[Samples]:
        """Mono float32 samples (n,) of each piece, at the model's rate."""
        mels = self._mels(rows, self._conditions(rows))
        lengths = [mel.shape[-1] for mel in mels]
        batch = padded([mel.t() for mel in mels]).transpose(1, 2).contiguous()
        with ragged(self._vocoder, lengths, self._vocoder_fills):
            sounds = self._vocoder(batch)[:, 0]
        return [
            sound[: length * self.config.hop].clamp(-1, 1).cpu().numpy()
            for sound, length in zip(sounds, lengths, strict=True)
        ]

    def stretched(self, features: Tensor, frames: int) -> Tensor:
        """(frames, channels) of features (n, 1024). Its normalisation looks at a whole row, so rows do not share a batch."""
        stretched: Tensor = self.regulator(features[None], ylens=torch.tensor([frames]))[0]
        return stretched

    def _conditions(self, rows: Sequence[Spoken]) -> list[Tensor]:
        """What the clip and the piece say, frame by frame: (clip's frames + own, channels)."""
        lengths = [len(row.codes) for row in rows]
        with ragged(self._codec, lengths, self._codec_fills):
            features = self._codec.decode(padded([row.codes for row in rows]))
        own = [
            self.stretched(feature[: FEATURES_PER_CODE * length], row.noise.shape[-1])
            for feature, length, row in zip(features, lengths, rows, strict=True)
        ]
        return [torch.cat([row.condition, said]) for row, said in zip(rows, own, strict=True)]

    def _mels(self, rows: Sequence[Spoken], conditions: Sequence[Tensor]) -> list[Tensor]:
        """The pieces' own mel frames (mels, n): Euler steps from noise, the clip's frames held before them."""
        lengths = [len(condition) for condition in conditions]
        starts = [row.mel.shape[-1] for row in rows]
        said = padded(conditions)
        prompt = said.new_zeros(len(rows), self.config.mels, said.shape[1])
        x = torch.zeros_like(prompt)
        own = torch.zeros_like(prompt[:, :1])
        for number, (row, start, length) in enumerate(zip(rows, starts, lengths, strict=True)):
            prompt[number, :, :start] = row.mel
            x[number, :, start:length] = row.noise
            own[number, :, start:length] = 1
        flow = self._flow(said, prompt, torch.stack([row.style for row in rows]), lengths)
        times = torch.linspace(0, 1, self._steps + 1)
        with ragged(self._estimator, 2 * lengths, self._estimator_fills, attention=self._attention):
            for now, then in pairwise(times):
                x = (x + (then - now) * flow(x, now)) * own
        return [row[:, start:end] for row, start, end in zip(x, starts, lengths, strict=True)]

    def _flow(self, said: Tensor, prompt: Tensor, style: Tensor, lengths: Sequence[int]) -> Any:
        """How x (batch, mels, frames) moves at a time: with the voice and the text, and away from without both."""
        without = [torch.cat([given, torch.zeros_like(given)]) for given in (prompt, style, said)]
        ends = torch.tensor([*lengths, *lengths])

        def flow(x: Tensor, time: Tensor) -> Tensor:
            moved = self._estimator(torch.cat([x, x]), without[0], ends, time.repeat(len(ends)), without[1], without[2])
            given, free = moved.chunk(2)
            guided: Tensor = (1 + self._guidance) * given - self._guidance * free
            return guided

        return flow
