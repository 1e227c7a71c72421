"""Changes the tempo of speech at the same pitch, with libavfilter's `atempo` (waveform-similarity overlap-add)."""

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

from deployments.audio.overlap_add import fade_in
from deployments.errors import fail

Float = NDArray[np.float32]

SLOWEST = 0.25
FASTEST = 4.0

# At least as much sound as all stages together can hold, at either end of the range.
_FLUSH_SECONDS = 0.25

# Each stage of `atempo` outputs nothing before it has filled a frame as long as its input frame. With frames of half its
# window that delay is short beside the window's; shorter frames cost more and save little delay. All frames but a sound's
# last have exactly this length, because the filter's rounding depends on it.
_FRAME_SECONDS = 0.02

_FADE_SECONDS = 0.005

NOTHING: Float = np.zeros(0, np.float32)


class Stretcher:
    """Plays mono sounds at `sample_rate` Hz `tempo` times as fast, one after the other. A tempo of 1 changes nothing.

    Push a sound in parts of any size, in order, then call `finish`; the next push begins another sound. The output of a sound
    has the length of its input divided by `tempo`, to the sample, and does not depend on the parts. Raises `MotetError`
    (invalid) if `tempo` is outside 0.25 to 4.
    """

    def __init__(self, sample_rate: int, tempo: float) -> None:
        if not SLOWEST <= tempo <= FASTEST:
            cause = f"A speed of {tempo:g} is outside the range of {SLOWEST:g} to {FASTEST:g}."
            raise fail("invalid", cause, "Choose a speed within that range.", param="speed", code="speed_out_of_range")
        self._rate = sample_rate
        self._tempo = tempo
        self._graph: Graph | None = None
        self._rest = NOTHING
        self._pushed = 0
        self._given = 0

    def push(self, samples: Float) -> Float:
        """Takes the next float32 (n,) part and returns the output that is ready, perhaps none: up to 0.3 s stay inside."""
        if self._tempo == 1.0:
            return samples
        size = int(_FRAME_SECONDS * self._rate)
        samples = np.concatenate([self._rest, samples])
        whole = samples.size - samples.size % size
        self._rest = samples[whole:]
        out = np.concatenate([NOTHING, *(self._through(samples[at : at + size]) for at in range(0, whole, size))])
        self._given += out.size
        return out

    def finish(self) -> Float:
        """Ends the sound and returns the rest of its output, with a fade-out over the last 5 ms."""
        size = self._pushed + self._rest.size
        if size == 0:
            return NOTHING
        # The filter drops its last windows, and a sound shorter than a window, so silence pushes them out.
        silence = np.zeros(int(_FLUSH_SECONDS * max(1.0, self._tempo) * self._rate), np.float32)
        tail = self._through(np.concatenate([self._rest, silence]), ends=True)
        tail = tail[: max(0, round(size / self._tempo) - self._given)]
        self._graph, self._rest, self._pushed, self._given = None, NOTHING, 0, 0
        return _faded(tail, int(_FADE_SECONDS * self._rate))

    def _through(self, samples: Float, *, ends: bool = False) -> Float:
        self._graph = self._graph or _graph(self._rate, self._tempo)
        self._graph.push(self._frame(samples))
        if ends:
            self._graph.push(None)
        return _drain(self._graph)

    def _frame(self, samples: Float) -> AudioFrame:
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples.reshape(1, -1)), format="flt", layout="mono")
        frame.sample_rate = self._rate
        frame.time_base = Fraction(1, self._rate)
        frame.pts = self._pushed
        self._pushed += samples.size
        return frame


def stretched(samples: Float, sample_rate: int, tempo: float) -> Float:
    """A whole sound, float32 (n,), `tempo` times as fast. See `Stretcher`."""
    stretcher = Stretcher(sample_rate, tempo)
    return np.concatenate([stretcher.push(samples), stretcher.finish()])


def _graph(sample_rate: int, tempo: float) -> Graph:
    graph = Graph()
    source = graph.add_abuffer(sample_rate=sample_rate, format="flt", layout="mono", time_base=Fraction(1, sample_rate))
    stages = [graph.add("atempo", f"{factor:.9f}") for factor in _factors(tempo)]
    for before, after in pairwise([source, *stages, graph.add("abuffersink")]):
        before.link_to(after)
    graph.configure()
    return graph


def _factors(tempo: float) -> list[float]:
    # A stage drops sound instead of blending it above 2, and refuses a tempo below 0.5. Equal stages blend best.
    stages = max(1, math.ceil(abs(math.log2(tempo))))
    return [tempo ** (1 / stages)] * stages


def _faded(tail: Float, count: int) -> Float:
    # The filter moves sound by some milliseconds to where it blends best, so the piece may end in the middle of a wave.
    fall = fade_in(min(tail.size, count))[::-1].astype(np.float32)
    return np.concatenate([tail[: tail.size - fall.size], tail[tail.size - fall.size :] * fall])


def _drain(graph: Graph) -> Float:
    return np.concatenate([NOTHING, *_ready(graph)])


def _ready(graph: Graph) -> Iterator[Float]:
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(frame, AudioFrame)
        yield frame.to_ndarray().reshape(-1).astype(np.float32, copy=False)
