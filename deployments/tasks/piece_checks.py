"""Checks the sound of each piece, and makes a piece with a fault again.

`PieceChecks.around` wraps a driver's `SpeechClient`, so that the service, the command line and bulk jobs check in one way,
and a chunk passes no further generator. A piece is held back while it is made, as long as the listener's buffer allows:

* A piece that comes in one chunk (a whole-sentence engine) is measured before it leaves, also the first one. A repetition is
  not looked for in a piece that its listener waits for.
* A piece that comes in many chunks is held until its end while the listener has more sound buffered than the next steps
  take. When the buffer runs low, what is held leaves, and the rest of the piece follows chunk by chunk. So the first piece of
  a stream is never held. What has left cannot be made again: its faults are only reported.
* Without a listener (a file, a bulk job), every piece is held.

A piece with a fault is made again, alone, with another seed and at another placement if there is one. The call that made it
is closed before, because an engine may have one place only, and the pieces after it become a new request: the property
"pieces of one request equal pieces of several" of all engines makes that sound. The attempt with the fewest faults is kept.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from deployments.audio.speech_measures import SpeechMeasures, measured
from deployments.engines.protocols import AudioChunk, Samples, SpeechRequest, SpeechTraits
from deployments.tasks.piece_quality import Fault, PieceQuality, QualitySettings, VoiceNorm, faults_of
from deployments.tasks.speech import SpeechCall, SpeechClient
from deployments.text.speakers import without_marks
from deployments.text.word_error_rate import errors, letter_error_rate

Result = TypeVar("Result")

FIRST_HEARING_S = 1.0
"""Assumed time of a hearing before one was timed."""
STEPS_AHEAD = 2.0
"""A piece is held while the listener has this many times the longest step so far in the buffer, and `SPARE_S`."""
SPARE_S = 0.2
MOST_IN_VAIN = 3
"""After this many pieces in a row that became no better, nothing more is made again: the limits do not fit the voice."""
ANOTHER_SEED = 1_000_003
SEEDS = 2**63


class PieceHearing(Protocol):
    """Recognises what a piece says."""

    async def heard(self, samples: Samples, sample_rate: int, language: str) -> str | None:
        """The words in mono float32 `samples` (n,); None if it cannot hear them. `language` is the voice's BCP 47 tag, or
        "und"."""


@runtime_checkable
class OpensElsewhere(Protocol):
    """A `SpeechClient` that can call another placement than the one that answered last."""

    def open_elsewhere(self, request: SpeechRequest, tempo: float) -> SpeechCall:
        """As `open`, at another placement if there is one that runs."""


async def inline(work: Callable[..., Result], *arguments: Any) -> Result:
    """Runs work on this thread."""
    return work(*arguments)


@dataclass(slots=True)
class PieceChecks:
    """How the pieces of one text are checked.

    `traits` are those of the model that speaks. `buffered_seconds` says how much sound the listener still has; it is None
    where nobody listens. `hearing` verifies each piece. `beside` runs the measurement, on another thread if it is
    `asyncio.to_thread`.
    """

    settings: QualitySettings
    traits: SpeechTraits
    buffered_seconds: Callable[[], float] | None = None
    hearing: PieceHearing | None = None
    beside: Callable[..., Awaitable[Any]] = inline
    clock: Callable[[], float] = time.monotonic
    found: list[PieceQuality] = field(default_factory=list)
    """The pieces that were checked, in the order in which they were made."""
    in_vain: int = 0
    """Pieces in a row that were made again and became no better."""
    norms: dict[str, VoiceNorm] = field(default_factory=dict)
    hearing_s: float = FIRST_HEARING_S

    def around(self, client: SpeechClient) -> SpeechClient:
        """The client, with checks."""
        checked = self.traits.is_speech and (self.settings.enabled or self.hearing)
        return _CheckedClient(client, self) if checked else client

    def may_wait(self, seconds: float, patience_s: float = 0.0) -> bool:
        """Whether the listener's buffer lasts for `seconds` more."""
        return self.buffered_seconds is None or self.buffered_seconds() + patience_s >= seconds

    async def quality(self, attempt: _Attempt, request: SpeechRequest, text: str) -> PieceQuality:
        """What is wrong with an attempt at a piece."""
        index, text = attempt.chunks[-1].index, without_marks((text,))[0] if self._is_script else text
        norm = self.norms.setdefault(request.voice, VoiceNorm())
        faults = await self.beside(self._measured, attempt, text, request.speed, norm) if self.settings.enabled else ()
        if self.hearing is None or not self.may_wait(self.hearing_s):
            return PieceQuality(index, faults, faults)
        heard = await self._heard(self.hearing, attempt, request.voice)
        if heard is None:
            return PieceQuality(index, faults, faults)
        count = errors([text], [heard])
        most = self.settings.max_wrong_words_share
        if count.rate > most and letter_error_rate(text, heard) > most:
            faults = (*faults, "words")
        return PieceQuality(index, faults, faults, heard=heard, words=count.words, wrong_words=count.errors)

    def _measured(self, attempt: _Attempt, text: str, speed: float, norm: VoiceNorm) -> tuple[Fault, ...]:
        is_awaited = not attempt.left and not self.may_wait(SPARE_S)
        attempt.measures = measured(attempt.samples, attempt.chunks[0].sample_rate, in_a_hurry=is_awaited)
        return tuple(
            fault
            for fault in faults_of(attempt.measures, text, speed, attempt.chunks[-1].finish_reason, norm)
            if fault not in self.settings.ignored and not (self._is_script and fault == "level")
        )

    @property
    def _is_script(self) -> bool:
        return self.traits.most_speakers > 1

    def _language(self, voice: str) -> str:
        return next((each.language for each in self.traits.voices if each.id == voice), "und")

    async def _heard(self, hearing: PieceHearing, attempt: _Attempt, voice: str) -> str | None:
        started = self.clock()
        rate = attempt.chunks[0].sample_rate
        heard = await hearing.heard(attempt.samples, rate, self._language(voice))
        self.hearing_s = self.clock() - started
        return heard

    def note_good(self, attempt: _Attempt, request: SpeechRequest, text: str) -> None:
        """A piece without a fault: later ones are compared with it."""
        if attempt.measures is not None:
            self.norms[request.voice].add(attempt.measures, text, request.speed)


@dataclass(slots=True)
class _Attempt:
    """The chunks of one attempt at a piece, how long they took, and how many of them have left."""

    chunks: list[AudioChunk] = field(default_factory=list)
    seconds: float = 0.0
    left: int = 0
    measures: SpeechMeasures | None = None

    @property
    def samples(self) -> Samples:
        return np.concatenate([chunk.samples for chunk in self.chunks])


@dataclass(frozen=True, slots=True)
class _CheckedClient:
    """See `SpeechClient`."""

    client: SpeechClient
    checks: PieceChecks

    def open(self, request: SpeechRequest, tempo: float) -> SpeechCall:
        return _CheckedCall(self.client, self.checks, request, tempo)


class _CheckedCall:
    """A request whose pieces are checked. See `SpeechCall`."""

    def __init__(self, client: SpeechClient, checks: PieceChecks, request: SpeechRequest, tempo: float) -> None:
        self._client = client
        self._checks = checks
        self._request = request
        self._tempo = tempo
        self._rest = request.pieces[:0]
        self._call: SpeechCall | None = client.open(request, tempo)
        self._attempt = _Attempt()
        self._ready: deque[AudioChunk] = deque()
        self._longest_step_s = 0.0

    async def step(self) -> AudioChunk | None:
        while not self._ready:
            chunk = await self._next()
            if chunk is None:
                self._release()
                break
            self._attempt.chunks.append(chunk)
            if chunk.piece_over:
                await self._end_piece(chunk)
            elif self._attempt.left or not self._may_hold():
                self._release()
        return self._ready.popleft() if self._ready else None

    async def close(self) -> None:
        call, self._call = self._call, None
        self._rest = ()
        if call is not None:
            await call.close()

    async def _next(self) -> AudioChunk | None:
        """The next chunk of the request, and of the new one for the pieces after one that was made again."""
        if self._call is None and self._rest:
            first = self._request.first_index + len(self._request.pieces) - len(self._rest)
            self._call = self._client.open(replace(self._request, pieces=self._rest, first_index=first), self._tempo)
        return None if self._call is None else await self._timed_step(self._call, self._attempt)

    async def _timed_step(self, call: SpeechCall, attempt: _Attempt) -> AudioChunk | None:
        started = self._checks.clock()
        chunk = await call.step()
        took_s = self._checks.clock() - started
        attempt.seconds += took_s
        self._longest_step_s = max(self._longest_step_s, took_s)
        return chunk

    def _may_hold(self) -> bool:
        return self._checks.may_wait(STEPS_AHEAD * self._longest_step_s + SPARE_S)

    def _release(self) -> None:
        """Lets the chunks of the piece leave that are held."""
        self._ready += self._attempt.chunks[self._attempt.left :]
        self._attempt.left = len(self._attempt.chunks)

    async def _end_piece(self, end: AudioChunk) -> None:
        number = end.index - self._request.first_index
        if len(self._attempt.samples) or end.finish_reason != "stop":  # otherwise the model has no sound for the text
            await self._check(number, self._request.pieces[number])
        self._release()
        self._attempt = _Attempt()

    async def _check(self, number: int, text: str) -> None:
        quality = await self._checks.quality(self._attempt, self._request, text)
        if quality.faults and not self._attempt.left:
            quality = await self._made_again(quality, number, text)
        if not quality.faults:
            self._checks.note_good(self._attempt, self._request, text)
        self._checks.found.append(quality)

    async def _made_again(self, first: PieceQuality, number: int, text: str) -> PieceQuality:
        """Makes a piece again until it has no fault or may take no longer, and keeps the best attempt."""
        best, attempts, last = first, 1, self._attempt.chunks[-1].last
        patience_s = self._checks.settings.patience_ms / 1000
        while best.faults and attempts < self._checks.settings.attempts and self._checks.in_vain < MOST_IN_VAIN:
            if not self._checks.may_wait(self._attempt.seconds, patience_s):
                break
            await self.close()
            self._rest = self._request.pieces[number + 1 :]
            attempts += 1
            made = await self._another(number, text, attempts)
            if made is None:
                break
            quality = await self._checks.quality(made, self._request, text)
            if _badness(quality) < _badness(best):
                best, self._attempt = quality, made
        if attempts > 1:
            self._checks.in_vain = 0 if _badness(best) < _badness(first) else self._checks.in_vain + 1
        *before, end = self._attempt.chunks
        self._attempt.chunks = [*(replace(chunk, last=False) for chunk in before), replace(end, last=last)]
        return replace(best, first_faults=first.faults, attempts=attempts)

    async def _another(self, number: int, text: str, attempt: int) -> _Attempt | None:
        """Another attempt at a piece; None if it failed, or the listener cannot wait for its end."""
        request = replace(
            self._request,
            pieces=(text,),
            first_index=self._request.first_index + number,
            seed=(self._request.seed + attempt * ANOTHER_SEED) % SEEDS,
        )
        made = _Attempt()
        patience_s = self._checks.settings.patience_ms / 1000
        try:
            open_again = self._client.open_elsewhere if isinstance(self._client, OpensElsewhere) else self._client.open
            call = open_again(request, self._tempo)
            try:
                while (chunk := await self._timed_step(call, made)) is not None:
                    made.chunks.append(chunk)
                    if not chunk.piece_over and not self._checks.may_wait(self._longest_step_s, patience_s):
                        return None
            finally:
                await call.close()
        except Exception:  # the first attempt is there
            return None
        return made if made.chunks and made.chunks[-1].piece_over and len(made.samples) else None


def _badness(quality: PieceQuality) -> tuple[int, float]:
    return len(quality.faults), quality.word_error_rate
