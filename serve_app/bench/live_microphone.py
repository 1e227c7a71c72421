"""A microphone that runs on the clock: it sends messages of 40 ms, of silence or of what it is given to say."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable

import numpy as np
import soxr

from serve_app.bench.hearing_corpus import CORPUS_RATE
from serve_app.bench.live_recordings import Pcm

CHUNK_S = 0.04
RATE = 24_000
"""Hz of the audio that is sent: that of OpenAI's clients."""


def messages_of(samples: Pcm) -> list[str]:
    """The messages that carry mono (n,) samples at 16 kHz; the last one is filled with silence."""
    sent = soxr.resample(samples, CORPUS_RATE, RATE)
    size = round(CHUNK_S * RATE)
    sent = np.pad(sent, (0, -len(sent) % size)).astype("<i2")
    return [_append(sent[start : start + size]) for start in range(0, len(sent), size)]


def _append(samples: Pcm) -> str:
    return json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(samples.tobytes()).decode()})


SILENCE = _append(np.zeros(round(CHUNK_S * RATE), np.int16))


class Microphone:
    """Sends a message when its last sample would have been recorded. Its clock starts with `run`."""

    def __init__(self, send: Callable[[str], Awaitable[None]]) -> None:
        self._send = send
        self._waiting = deque[str]()
        self._sent = 0
        self._started_s = 0.0
        self.late_s: list[float] = []
        """How late each message was sent."""

    def now_s(self) -> float:
        """Seconds since the microphone started."""
        return time.monotonic() - self._started_s

    def say(self, messages: list[str]) -> float:
        """Speaks after what is spoken already. Returns when it begins, in seconds of the microphone's clock."""
        begins = (self._sent + len(self._waiting)) * CHUNK_S
        self._waiting.extend(messages)
        return begins

    async def run(self) -> None:
        """Sends until it is cancelled."""
        self._started_s = time.monotonic()
        while True:
            due = (self._sent + 1) * CHUNK_S
            await asyncio.sleep(max(0.0, due - self.now_s()))
            message = self._waiting.popleft() if self._waiting else SILENCE
            self._sent += 1
            self.late_s.append(self.now_s() - due)
            await self._send(message)
