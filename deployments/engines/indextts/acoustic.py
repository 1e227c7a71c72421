"""From codes to samples, several pieces of text together: features, mel frames by flow matching, and the vocoder.

All networks are the package's; rows of different lengths share a batch (`ragged.py`). A step does a bounded amount of work:
some solver steps of some rows, each row at its own time, and the vocoder over a part of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from deployments.engines.indextts.config import FEATURES_PER_CODE, FRAMES_PER_FEATURE, IndexConfig, Section
from deployments.engines.indextts.ragged import Fill, last, mirrored, padded, ragged, zeros
from deployments.engines.protocols import Samples
from deployments.engines.speech import SILENCE

VOCODED = 4
"""The vocoder's work for one frame, in frames of one solver step."""
FILTERED = 6
"""Samples on each side that the filters of the vocoder's activations cover."""


@dataclass(frozen=True, slots=True)
class AcousticInput:
    """One piece's codes (n,) and what they are synthesised with.

    `condition` (frames, channels), `mel` (mels, frames) and `style` (192,) belong to the clip. `noise` (mels, frames) is the
    start of the piece's own frames, `frames_of(n, duration)` of them.
    """

    codes: Tensor
    condition: Tensor
    mel: Tensor
    style: Tensor
    noise: Tensor


@dataclass(eq=False, slots=True)
class PieceSynthesis:
    """The state of one piece's synthesis. `condition` (frames, channels) is that of the clip, then of the piece. `mel` (mels,
    frames) are the piece's own frames: noise after `solved` solver steps. `vocoded` of them have become samples."""

    spoken: AcousticInput
    condition: Tensor
    mel: Tensor
    solved: int = 0
    vocoded: int = 0

    @property
    def finished(self) -> bool:
        """True when all samples are made."""
        return self.vocoded == self.mel.shape[-1]


def frames_of(codes: int, duration: float) -> int:
    """Mel frames of this many codes; `duration` 2 is half the voice's own pace."""
    return int(FEATURES_PER_CODE * codes * FRAMES_PER_FEATURE * duration)


class AcousticNetworks:
    """The networks after the language model. The solver takes `steps` steps. `guidance` is the weight of classifier-free
    guidance (https://arxiv.org/abs/2207.12598)."""

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
        self._times = torch.linspace(0, 1, steps + 1)
        self._guidance = guidance
        convolutions: dict[type[nn.Module], Fill] = {nn.Conv1d: zeros, nn.ConvTranspose1d: zeros}
        self._codec_fills = convolutions
        self._estimator_fills: dict[type[nn.Module], Fill] = {SConv1d: mirrored}
        self._attention = Transformer
        self._vocoder_fills = convolutions | {UpSample1d: last, LowPassFilter1d: last}
        self._reach = reach_of(config.vocoder)

    def begin(self, rows: Sequence[AcousticInput]) -> list[PieceSynthesis]:
        """Starts the synthesis of pieces, which `advance` continues."""
        lengths = [len(row.codes) for row in rows]
        with ragged(self._codec, lengths, self._codec_fills):
            features = self._codec.decode(padded([row.codes for row in rows]))
        own = [
            self.regulate_length(feature[: FEATURES_PER_CODE * length], row.noise.shape[-1])
            for feature, length, row in zip(features, lengths, rows, strict=True)
        ]
        return [
            PieceSynthesis(row, torch.cat([row.condition, said]), row.noise)
            for row, said in zip(rows, own, strict=True)
        ]

    def regulate_length(self, features: Tensor, frames: int) -> Tensor:
        """Features (n, 1024) to (frames, channels). The regulator normalises over the whole row, so rows do not share a
        batch."""
        stretched: Tensor = self.regulator(features[None], ylens=torch.tensor([frames]))[0]
        return stretched

    def advance(self, rows: Sequence[PieceSynthesis], most_frames: int) -> list[Samples]:
        """The next mono float32 samples (n,) of each piece, at the model's sample rate; none for a piece that needs more
        steps.

        The first pieces come first. The solver's work is at most `most_frames` frames in all, with the clips' frames and
        padding, or one piece if that has more; the vocoder does as much work again.
        """
        self._solve(rows, most_frames)
        ready = [row for row in rows if row.solved == len(self._times) - 1 and not row.finished]
        sounds = dict(zip(map(id, ready), self._vocode(ready, most_frames // VOCODED), strict=False))
        return [sounds.get(id(row), SILENCE) for row in rows]

    def _solve(self, rows: Sequence[PieceSynthesis], most_frames: int) -> None:
        left, last_step = most_frames, len(self._times) - 1
        while waiting := [row for row in rows if row.solved < last_step]:
            lengths = [len(row.condition) for row in waiting]
            count = _leading(lengths, left)
            work = count * max(lengths[:count])
            if work > left < most_frames:
                return
            steps = max(1, min(left // work, last_step - max(row.solved for row in waiting[:count])))
            self._take_euler_steps(waiting[:count], steps)
            left -= steps * work

    def _take_euler_steps(self, rows: Sequence[PieceSynthesis], steps: int) -> None:
        """Takes Euler steps from noise to the pieces' own frames; the clip's frames before them are given."""
        lengths = [len(row.condition) for row in rows]
        starts = [row.spoken.mel.shape[-1] for row in rows]
        said = padded([row.condition for row in rows])
        prompt = said.new_zeros(len(rows), self.config.mels, said.shape[1])
        x = torch.zeros_like(prompt)
        own = torch.zeros_like(prompt[:, :1])
        for number, (row, start, length) in enumerate(zip(rows, starts, lengths, strict=True)):
            prompt[number, :, :start] = row.spoken.mel
            x[number, :, start:length] = row.mel
            own[number, :, start:length] = 1
        flow = self._flow(said, prompt, torch.stack([row.spoken.style for row in rows]), lengths)
        solved = torch.tensor([row.solved for row in rows])
        with ragged(self._estimator, 2 * lengths, self._estimator_fills, attention=self._attention):
            for now, then in ((self._times[solved + n], self._times[solved + n + 1]) for n in range(steps)):
                x = (x + (then - now)[:, None, None] * flow(x, now)) * own
        for row, frames, start, end in zip(rows, x, starts, lengths, strict=True):
            row.mel, row.solved = frames[:, start:end].clone(), row.solved + steps

    def _flow(self, said: Tensor, prompt: Tensor, style: Tensor, lengths: Sequence[int]) -> Any:
        """The velocity of x (batch, mels, frames) at times (batch,), guided by the voice and the text."""
        without = [torch.cat([given, torch.zeros_like(given)]) for given in (prompt, style, said)]
        ends = torch.tensor([*lengths, *lengths])

        def flow(x: Tensor, times: Tensor) -> Tensor:
            moved = self._estimator(torch.cat([x, x]), without[0], ends, times.repeat(2), without[1], without[2])
            given, free = moved.chunk(2)
            guided: Tensor = (1 + self._guidance) * given - self._guidance * free
            return guided

        return flow

    def _vocode(self, rows: Sequence[PieceSynthesis], most_frames: int) -> list[Samples]:
        """The next samples of the first rows. Each is a part of the frames, with the frames around it that its samples depend
        on."""
        stretch = max(most_frames - 2 * self._reach, self._reach)
        stops = [min(row.vocoded + stretch, row.mel.shape[-1]) for row in rows]
        windows = [
            row.mel[:, max(0, row.vocoded - self._reach) : stop + self._reach]
            for row, stop in zip(rows, stops, strict=True)
        ]
        count = _leading([window.shape[-1] for window in windows], most_frames)
        sounds = []
        for row, stop, sound in zip(rows, stops, self._sounds(windows[:count]), strict=False):
            start = min(row.vocoded, self._reach)
            sounds.append(sound[start * self.config.hop : (start + stop - row.vocoded) * self.config.hop])
            row.vocoded = stop
        return sounds

    def _sounds(self, mels: Sequence[Tensor]) -> list[Samples]:
        """Mel frames (mels, n_i) to samples."""
        if not mels:
            return []
        batch = padded([mel.t() for mel in mels]).transpose(1, 2).contiguous()
        with ragged(self._vocoder, [mel.shape[-1] for mel in mels], self._vocoder_fills):
            sounds: Tensor = self._vocoder(batch)[:, 0].clamp(-1, 1)
        return list(sounds.cpu().numpy())


def _leading(lengths: Sequence[int], most: int) -> int:
    """How many of the first rows fit in a padded batch of `most` frames; at least one, if there is any."""
    counts = range(1, len(lengths) + 1)
    return max((count for count in counts if count == 1 or count * max(lengths[:count]) <= most), default=0)


def reach_of(vocoder: Section) -> int:
    """Mel frames on each side that a sample depends on, with a margin."""
    reach, rate = 3.0, 1
    for factor, kernel in zip(vocoder["upsample_rates"], vocoder["upsample_kernel_sizes"], strict=True):
        reach += kernel / factor / rate
        rate *= factor
        reach += max(map(_reach_of_block, vocoder["resblock_kernel_sizes"], vocoder["resblock_dilation_sizes"])) / rate
    return ceil(reach + (FILTERED + 3) / rate)


def _reach_of_block(kernel: int, dilations: Sequence[int]) -> int:
    """In samples: for each dilation a dilated convolution, a plain one, and an activation before each."""
    return sum((kernel - 1) // 2 * (dilation + 1) + 2 * FILTERED for dilation in dilations)
