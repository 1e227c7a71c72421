"""Faster or slower speech at the same pitch, piece by piece, with libavfilter's `atempo`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.filter import Graph
from numpy.typing import NDArray

from deployments.errors import fail

Float = NDArray[np.float32]

SLOWEST = 0.25
FASTEST = 4.0

# At least as much sound as all stages together can hold, at either end of the range.
_FLUSH_SECONDS = 0.25


class Stretcher:
    """Speaks one mono stream at `sample_rate` Hz `tempo` times as fast; a tempo of 1 hands it through untouched.

    Push pieces of any size, in order, then call `finish` once. All that comes out is as long as all that went in,
    divided by `tempo`, to the sample. Raises `MotetError` (invalid) when `tempo` is outside 0.25 to 4.
    """

    def __init__(self, sample_rate: int, tempo: float) -> None:
        if not SLOWEST <= tempo <= FASTEST:
            cause = f"A speed of {tempo:g} is outside the range of {SLOWEST:g} to {FASTEST:g}."
            raise fail("invalid", cause, "Choose a speed within that range.", param="speed", code="speed_out_of_range")
        self._rate = sample_rate
        self._tempo = tempo
        self._pushed = 0
        self._given = 0
        self._graph = None if tempo == 1.0 else _graph(sample_rate, tempo)

    def push(self, samples: Float) -> Float:
        """Takes the next float32 (n,) piece and returns the stretched samples that are ready, perhaps none."""
        if self._graph is None or samples.size == 0:
            return samples
        self._graph.push(self._frame(samples))
        out = _drain(self._graph)
        self._given += out.size
        return out

    def finish(self) -> Float:
        """Ends the stream and returns the samples still held. Push nothing afterwards."""
        if self._graph is None:
            return np.zeros(0, np.float32)
        # The filter drops its last windows and a sound shorter than one, so silence pushes all of it out.
        left = round(self._pushed / self._tempo) - self._given
        silence = np.zeros(int(_FLUSH_SECONDS * max(1.0, self._tempo) * self._rate), np.float32)
        self._graph.push(self._frame(silence))
        self._graph.push(None)
        return _drain(self._graph)[: max(0, left)]

    def _frame(self, samples: Float) -> AudioFrame:
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples.reshape(1, -1)), format="flt", layout="mono")
        frame.sample_rate = self._rate
        frame.time_base = Fraction(1, self._rate)
        frame.pts = self._pushed
        self._pushed += samples.size
        return frame


def _graph(sample_rate: int, tempo: float) -> Graph:
    graph = Graph()
    source = graph.add_abuffer(sample_rate=sample_rate, format="flt", layout="mono", time_base=Fraction(1, sample_rate))
    stages = [graph.add("atempo", f"{factor:.9f}") for factor in _factors(tempo)]
    for before, after in pairwise([source, *stages, graph.add("abuffersink")]):
        before.link_to(after)
    graph.configure()
    return graph


def _factors(tempo: float) -> list[float]:
    # Above 2 one stage would drop sound instead of blending it, and below 0.5 it refuses; equal stages blend best.
    stages = max(1, math.ceil(abs(math.log2(tempo))))
    return [tempo ** (1 / stages)] * stages


def _drain(graph: Graph) -> Float:
    return np.concatenate([np.zeros(0, np.float32), *_ready(graph)])


def _ready(graph: Graph) -> Iterator[Float]:
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(frame, AudioFrame)
        yield frame.to_ndarray().reshape(-1).astype(np.float32, copy=False)
