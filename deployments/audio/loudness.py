"""Loudness after ITU-R BS.1770 (gated, in LUFS), measured with libavfilter's `ebur128`, and speech brought to a target."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.filter import Graph
from numpy.typing import NDArray

Float = NDArray[np.float32]

FIRST_SECONDS = 3.0
"""The first gain of a voice comes from this much of its sound, or from its first piece if that is shorter."""
MOST_GAIN_DB = 30.0
"""What needs more gain is not speech."""

_BLOCK_SECONDS = 0.4
_SILENCE_LUFS = -70.0
_RAMP_SECONDS = 0.02
_KNEE = np.float32(0.8)


class LoudnessMeter:
    """Measures one mono sound at `sample_rate` Hz."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._pushed = 0
        self._latest = _SILENCE_LUFS
        self._graph = Graph()
        source = self._graph.add_abuffer(
            sample_rate=sample_rate, format="flt", layout="mono", time_base=Fraction(1, sample_rate)
        )
        meter = self._graph.add("ebur128", "metadata=1")
        source.link_to(meter)
        meter.link_to(self._graph.add("abuffersink"))
        self._graph.configure()

    @property
    def lufs(self) -> float | None:
        """The integrated loudness so far, without an incomplete last 0.1 s. None if all is silent or shorter than 0.4 s."""
        return self._latest if self._latest > _SILENCE_LUFS else None

    def push(self, samples: Float) -> None:
        """Takes the next float32 samples (n,)."""
        if not len(samples):
            return
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples).reshape(1, -1), format="flt", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = self._rate, Fraction(1, self._rate), self._pushed
        self._pushed += len(samples)
        self._graph.push(frame)
        while True:
            try:
                measured = self._graph.pull()
            except av.error.BlockingIOError:
                return
            self._latest = float(measured.metadata["lavfi.r128.I"])


def loudness_of(samples: Float, sample_rate: int) -> float | None:
    """The integrated loudness of a whole mono sound (n,). One shorter than 0.4 s counts as if it were repeated. None if it is
    silent."""
    meter = LoudnessMeter(sample_rate)
    meter.push(np.resize(samples, max(len(samples), int(_BLOCK_SECONDS * sample_rate))) if len(samples) else samples)
    return meter.lufs


class Leveller:
    """Brings mono speech at `sample_rate` Hz to `target_lufs`.

    Push the sound of one piece after the other, in parts of any size; the parts do not change the output. Each voice has its
    own gain. Its first one comes from its first `FIRST_SECONDS`, which are held back until they are complete or the piece
    ends. Each later piece has the gain that all earlier ones of the voice ask for, so nothing more is held back. Peaks above
    0.8 of full scale are rounded instead of clipped.
    """

    def __init__(self, sample_rate: int, target_lufs: float) -> None:
        self._rate = sample_rate
        self._target = target_lufs
        self._voices: dict[str, _VoiceLevel] = {}

    def push(self, samples: Float, voice: str, *, ends: bool) -> Float:
        """Takes the next float32 samples (n,) of a piece, of which there are no more if it `ends`. Returns those that are
        ready, as many in all as were pushed."""
        level = self._voices.get(voice)
        if level is None:
            level = self._voices[voice] = _VoiceLevel(self._rate, self._target)
        return level.push(samples, ends)


class _VoiceLevel:
    """The loudness of one voice so far, and its gain."""

    def __init__(self, sample_rate: int, target_lufs: float) -> None:
        self._rate = sample_rate
        self._target = target_lufs
        self._meter = LoudnessMeter(sample_rate)
        self._held: list[Float] | None = []
        self._gain = np.float32(1)
        self._ramp: Float = np.zeros(0, np.float32)
        self._begins = False

    def push(self, samples: Float, ends: bool) -> Float:
        """See `Leveller`."""
        if self._held is None:
            if self._begins:
                self._change_gain()
            self._meter.push(samples)
        else:
            self._held.append(samples)
            first = int(FIRST_SECONDS * self._rate)
            if not ends and sum(map(len, self._held)) < first:
                return samples[:0]
            samples = np.concatenate(self._held)
            lufs = loudness_of(samples[:first], self._rate)
            self._held = [] if lufs is None and ends else None  # a pause says nothing about the voice
            self._gain = self._gain_for(lufs)
            if self._held is None:
                self._meter.push(samples)
        self._begins = ends
        return _rounded(self._scaled(samples))

    def _change_gain(self) -> None:
        if (lufs := self._meter.lufs) is None:
            return  # too little was said so far
        before, self._gain = self._gain, self._gain_for(lufs)
        self._ramp = np.linspace(before, self._gain, int(_RAMP_SECONDS * self._rate), dtype=np.float32)

    def _gain_for(self, lufs: float | None) -> np.float32:
        gain_db = 0.0 if lufs is None else min(self._target - lufs, MOST_GAIN_DB)
        return np.float32(10 ** (gain_db / 20))

    def _scaled(self, samples: Float) -> Float:
        count = min(len(samples), len(self._ramp))
        ramp, self._ramp = self._ramp[:count], self._ramp[count:]
        return np.concatenate([samples[:count] * ramp, samples[count:] * self._gain])


def _rounded(samples: Float) -> Float:
    over = np.abs(samples) - _KNEE
    loud = over > 0
    if loud.any():
        samples[loud] = np.sign(samples[loud]) * (_KNEE + (1 - _KNEE) * np.tanh(over[loud] / (1 - _KNEE)))
    return samples
