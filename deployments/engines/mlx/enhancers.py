"""The models of mlx-audio that take noise out of speech: DeepFilterNet (1, 2 and 3) and MossFormer2 SE, both at 48 kHz."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deployments.engines.mlx.memory import MlxEngine
from deployments.engines.mlx.runtime import loading, mx
from deployments.engines.protocols import Chunk, EngineSpec, Samples, SeparationTraits, Stems
from deployments.engines.separation import channel_by_channel, in_equal_batches, speech_and_background

DITHER_SEED = 0
"""MossFormer2's features have noise of one bit, from MLX's own generator. With a seed, a sound has the same stems again."""


class MlxEnhancer(MlxEngine):
    """Separates audio into `speech` and `background`, which sum to the input. Each channel is separated by itself, one after
    another: the library takes one at a time.

    `enhance` gives the speech in (n,) samples.
    """

    def __init__(self, spec: EngineSpec, traits: SeparationTraits, enhance: Callable[[Samples], Samples]) -> None:
        super().__init__(spec)
        self._traits = traits
        self._enhance = enhance

    @property
    def traits(self) -> SeparationTraits:
        """The model's sample rate, two stems."""
        return self._traits

    def separate(self, chunks: Sequence[Chunk]) -> list[Stems | Exception]:
        """The stems of each chunk, or an error in its place."""
        return in_equal_batches(chunks, self._traits, self._separate_batch)

    def _separate_batch(self, chunks: Sequence[Chunk]) -> list[Stems]:
        return list(map(speech_and_background, chunks, channel_by_channel(chunks, self._whole)))

    def _whole(self, rows: Samples) -> Samples:
        return np.stack([self._enhance(row) for row in rows])


def _traits(rate: int, most_chunk_seconds: float | None = None) -> SeparationTraits:
    return SeparationTraits((rate,), ("speech", "background"), False, False, most_chunk_seconds=most_chunk_seconds)


def load_deepfilternet(spec: EngineSpec) -> MlxEnhancer:
    """Loads the DeepFilterNet in `spec.folder`, or in its subfolder `v3`, as mlx-audio publishes it."""
    from mlx_audio.sts.models.deepfilternet import DeepFilterNetModel

    folder = Path(spec.folder)
    with loading():  # `load_model` would leave the filter bank of the features at zero
        model = DeepFilterNetModel.from_pretrained(
            str(folder), subfolder=None if (folder / "config.json").is_file() else "v3"
        )
    return MlxEnhancer(spec, _traits(int(model.config.sample_rate)), model.enhance_array)


def load_mossformer(spec: EngineSpec) -> MlxEnhancer:
    """Loads the MossFormer2 SE in `spec.folder`. A chunk is as long as the model hears at once; the library cuts longer
    recordings in a way of its own."""
    from mlx_audio.sts.utils import load_model

    with loading():
        model = load_model(Path(spec.folder))
    most = float(model.config.one_time_decode_length)
    return MlxEnhancer(
        spec, _traits(int(model.config.sample_rate), most), lambda samples: _whole_frames(model, samples)
    )


def _whole_frames(model: Any, samples: Samples) -> Samples:
    """The speech in (n,) samples. The library gives silence after the last whole frame, so the sound is padded to one."""
    window, hop = model.config.win_len, model.config.win_inc
    frames = max(0, -(-(len(samples) - window) // hop))
    padded = np.pad(samples, (0, window + frames * hop - len(samples)))
    mx.random.seed(DITHER_SEED)
    speech: Samples = np.asarray(model.enhance(padded, chunked=False), np.float32)[: len(samples)]
    return speech
