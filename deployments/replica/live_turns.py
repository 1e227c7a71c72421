"""What an audio helper does for live sessions: it finds speech in their newest sound, and recognises the end of turns.

One call brings the new frames of all sessions of a gateway, because a call costs more than the network: both processes
together need 16 % of an AMD Zen 3 core for one session, and 20 % for 16 sessions. A helper that starts again has lost its
sessions. Their next call starts them anew, and their probabilities settle within a few frames.

Both networks have a thread each, so they wait neither for recordings that are decoded nor for each other: a judgement takes
a hundred times as long as a frame.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from deployments.audio.end_of_turn import shared_end_of_turn
from deployments.audio.live_voice_activity import LiveVoice
from deployments.engines.protocols import Samples
from deployments.errors import Failure
from deployments.replica.error_log import logged_failure

FORGOTTEN_S = 120.0
"""A session that brings nothing for this long is dropped. Gateways close theirs; this is for gateways that are lost."""


class LiveFrames(NamedTuple):
    """New sound of one session: whole frames of 512 samples, mono at 16 kHz as little-endian 16-bit integers."""

    session: str
    first_frame: int
    """The number of the first of them, from the session's first one."""
    sound: bytes


class LiveTurns:
    """The live sessions at one audio helper."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._voices: dict[str, LiveVoice] = {}
        self._used_at_s: dict[str, float] = {}
        self._finding = ThreadPoolExecutor(1, thread_name_prefix="live-voice")
        self._judging = ThreadPoolExecutor(1, thread_name_prefix="end-of-turn")

    async def find_speech(self, frames: Sequence[LiveFrames], closed: Sequence[str]) -> list[list[float]] | Failure:
        """The probabilities of speech in the new frames, a list for each session. `closed` are sessions that have ended."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._finding, self._found, frames, closed)
        except Exception as error:
            return logged_failure(error, "The search for speech")

    async def judge_turn(self, session: str, start: int, end: int) -> float | Failure | None:
        """The probability that the turn from sample `start` to `end` of a session is over. None if its sound is gone."""
        try:
            loop = asyncio.get_running_loop()
            sound = await loop.run_in_executor(self._finding, self._between, session, start, end)
            if not len(sound):
                return None
            return await loop.run_in_executor(self._judging, lambda: shared_end_of_turn().probability(sound))
        except Exception as error:
            return logged_failure(error, "The recognition of the end of a turn")

    def _found(self, frames: Sequence[LiveFrames], closed: Sequence[str]) -> list[list[float]]:
        now_s = self._clock()
        forgotten = [name for name, used_at_s in self._used_at_s.items() if now_s - used_at_s > FORGOTTEN_S]
        for name in (*closed, *forgotten):
            self._voices.pop(name, None)
            self._used_at_s.pop(name, None)
        self._used_at_s |= {each.session: now_s for each in frames}
        return [self._voice(each).push(np.frombuffer(each.sound, "<i2")) for each in frames]

    def _voice(self, frames: LiveFrames) -> LiveVoice:
        """The session's state; a new one if sound is missing or comes again, as after a call that was lost."""
        voice = self._voices.get(frames.session)
        if voice is None or voice.next_frame != frames.first_frame:
            voice = self._voices[frames.session] = LiveVoice(frames.first_frame)
        return voice

    def _between(self, session: str, start: int, end: int) -> Samples:
        voice = self._voices.get(session)
        return voice.between(start, end) if voice else np.zeros(0, np.float32)
