"""The sound of a live session as the client sends it, turned into samples that models hear; and the input buffer."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from deployments.audio import g711
from deployments.audio.pcm import to_float, to_int16
from deployments.audio.resample import Resampler

SAMPLE_RATE = 16_000
"""The sample rate of everything behind the input, in Hz."""
SAMPLES_PER_MS = SAMPLE_RATE // 1000

InputEncoding = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
Int16 = NDArray[np.int16]


LAWS: Mapping[str, g711.Law] = {"audio/pcmu": "mu", "audio/pcma": "a"}


class InputDecoder:
    """Decodes one stream in the encoding and at the rate in Hz that the client chose, to mono int16 at `SAMPLE_RATE`.

    Pieces may be cut anywhere, even inside a sample.
    """

    def __init__(self, encoding: InputEncoding, rate: int) -> None:
        self._law = LAWS.get(encoding)
        self._rate = g711.RATE if self._law else rate
        self._resampler = Resampler(self._rate, SAMPLE_RATE, prompt=True)
        self._rest = b""

    def push(self, data: bytes) -> Int16:
        """The samples that are ready, (n,). The resampling filter holds some back."""
        if self._law:
            return self._converted(g711.decode(data, self._law))
        data = self._rest + data
        whole = len(data) // 2 * 2
        self._rest = data[whole:]
        return self._converted(np.frombuffer(data[:whole], "<i2").astype(np.int16, copy=False))

    def flush(self) -> Int16:
        """The samples that the filter held back. The stream may go on after them."""
        self._rest = b""
        rest = self._resampler.finish()
        self._resampler = Resampler(self._rate, SAMPLE_RATE, prompt=True)
        return to_int16(rest)

    def _converted(self, samples: Int16) -> Int16:
        if self._rate == SAMPLE_RATE:
            return samples
        return to_int16(self._resampler.push(to_float(samples)))


class InputBuffer:
    """The sound that no turn has taken yet. Positions are samples since the start of the session. At most `most` samples
    are kept; the oldest go first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._pieces: deque[Int16] = deque()
        self.start = 0
        """The position of the first sample that is kept."""
        self.end = 0
        """The position after the last sample."""

    def push(self, samples: Int16) -> None:
        """Adds samples at the end."""
        if len(samples):
            self._pieces.append(samples)
            self.end += len(samples)
            self.drop_before(self.end - self._most)

    def drop_before(self, position: int) -> None:
        """Forgets the samples before a position."""
        position = min(position, self.end)
        while self._pieces and self.start + len(self._pieces[0]) <= position:
            self.start += len(self._pieces.popleft())
        if self._pieces and self.start < position:
            self._pieces[0] = self._pieces[0][position - self.start :]
            self.start = position

    def since(self, position: int) -> Int16:
        """The samples from a position on, or from `start` if that is later."""
        return self.between(position, self.end)

    def between(self, start: int, end: int) -> Int16:
        """The samples between two positions, as far as they are kept. Costs as much as there are samples after `start`."""
        start, end = max(start, self.start), min(end, self.end)
        found, begin = list[Int16](), self.end
        for piece in reversed(self._pieces):
            if begin <= start:
                break
            begin -= len(piece)
            found.append(piece)
        if end <= start:
            return np.zeros(0, np.int16)
        return np.concatenate(found[::-1])[start - begin : end - begin]
