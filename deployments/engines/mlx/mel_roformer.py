"""Mel-band RoFormer on MLX: the vocals of music, and everything else, in stereo.

Wang et al., "Mel-Band RoFormer for Music Source Separation", 2023 (https://arxiv.org/abs/2310.01809). The network is
mlx-audio's, which has one stem.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deployments.engines.mlx.memory import MlxEngine
from deployments.engines.mlx.runtime import loading, on_cpu
from deployments.engines.protocols import Chunk, EngineSpec, SeparationTraits, Stems
from deployments.engines.separation import from_stereo, in_equal_batches, in_stereo

STEMS = ("vocals", "other")


class MlxMelRoFormer(MlxEngine):
    """Separates music into `vocals` and `other`, which sum to the input. A mono chunk is heard as stereo with two equal
    channels."""

    def __init__(self, spec: EngineSpec) -> None:
        from mlx_audio.sts.models.mel_roformer import MelRoFormer

        super().__init__(spec)
        with loading():
            self._model = MelRoFormer.from_pretrained(spec.folder)
        config = self._model.config
        self._traits = SeparationTraits(
            sample_rates=(int(config.sample_rate),),
            stems=STEMS,
            takes_description=False,
            takes_reference=False,
            most_channels=2,
            most_chunk_seconds=config.chunk_size / config.sample_rate,
        )

    @property
    def traits(self) -> SeparationTraits:
        """The checkpoint's sample rate. A chunk is at most as long as those that it was trained on."""
        return self._traits

    def separate(self, chunks: Sequence[Chunk]) -> list[Stems | Exception]:
        """The stems of each chunk, or an error in its place. Chunks of one length are one batch."""
        return in_equal_batches(chunks, self._traits, self._separate_batch)

    def _separate_batch(self, chunks: Sequence[Chunk]) -> list[Stems]:
        mixtures = in_stereo(chunks)
        length = mixtures.shape[2]
        # The transform mirrors half a window at both ends, so that it needs more samples than that.
        padded = np.pad(mixtures, ((0, 0), (0, 0), (0, max(0, self._model.config.n_fft - length))))
        with on_cpu():
            heard = self.edge.to_mlx(padded)
        vocals = self.edge.to_numpy(self._model(heard))[:, :, :length]
        return [
            from_stereo(chunk, {"vocals": voice, "other": mixture - voice})
            for chunk, mixture, voice in zip(chunks, mixtures, vocals, strict=True)
        ]
