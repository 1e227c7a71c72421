"""The probability of speech in the newest frames of live sessions.

The network is that of `voice_activity.py`, so live sessions and recordings find the same speech. It takes the frames of one
stream in a run. Silero's other graph, of which the batch is over streams, gains too little to be a second network: a frame of
each of 1, 4, 16 and 64 streams takes it 0.22, 0.47, 1.6 and 5.9 ms on an AMD Zen 3 core, and this one 0.12, 0.47, 1.9 and
7.5 ms. Their probabilities differ by 0.05 on average, since they are of different versions.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from deployments.audio.pcm import to_float
from deployments.audio.voice_activity import FRAME, NETWORK_RATE, SpeechProbabilities
from deployments.engines.protocols import Samples

KEPT = 10 * NETWORK_RATE
"""Samples that a session keeps for the network that recognises the end of a turn: its 8 s, and what comes while it runs."""


class LiveVoice:
    """The state of one session's sound. It belongs to one thread."""

    def __init__(self, first_frame: int) -> None:
        self._probabilities = SpeechProbabilities()
        self._sound: deque[NDArray[np.int16]] = deque()
        self._kept = 0
        self._end = first_frame * FRAME

    @property
    def next_frame(self) -> int:
        """The number of the frame that comes next, from the session's first one."""
        return self._end // FRAME

    def push(self, samples: NDArray[np.int16]) -> list[float]:
        """Takes the next whole frames, mono (n * 512,) at 16 kHz. Returns the probability of speech in each."""
        self._keep(samples)
        probabilities: list[float] = self._probabilities.push(to_float(samples)).tolist()
        return probabilities

    def between(self, start: int, end: int) -> Samples:
        """The samples (n,) of the session from `start` to `end`, as far as they are kept."""
        first = self._end - self._kept
        kept = np.concatenate([*self._sound, np.zeros(0, np.int16)])
        return to_float(kept[max(0, start - first) : max(0, end - first)])

    def _keep(self, samples: NDArray[np.int16]) -> None:
        self._sound.append(samples)
        self._kept += len(samples)
        self._end += len(samples)
        while self._kept - len(self._sound[0]) >= KEPT:
            self._kept -= len(self._sound.popleft())
