"""The revoicing driver: the words of a recording in another voice, at the pauses of the recording.

The service and the command line call `revoice`. They differ in how phrases are found and spoken, which they pass in, so this
file knows neither where the recogniser runs nor where the voice does. It holds the sound of one phrase and of one part of the
background.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np

from deployments.audio.resample import resample
from deployments.audio.speech_measures import without_outer_pauses
from deployments.audio.stretch import stretched
from deployments.engines.protocols import AudioChunk, Samples, SeparationTraits
from deployments.errors import MotetError, fail, quoted
from deployments.tasks.engine_calls import Started
from deployments.tasks.enhancement import SPEECH, ensure_enhances
from deployments.tasks.phrase_fitting import PhraseFit, PhraseFitter
from deployments.tasks.phrases import Phrase
from deployments.tasks.piece_checks import inline
from deployments.tasks.separation import Merged

SILENCE_S = 5.0
"""A longer silence between phrases is made in parts."""
UNSPOKEN = ("empty_input", "no_sound")
"""Codes of failures of a phrase that a voice cannot say, such as one in another script. It stays silent."""


@dataclass(frozen=True, slots=True)
class RevoicedPhrase:
    """A phrase and where it is spoken. One that the voice cannot say is not `spoken`."""

    phrase: Phrase
    fit: PhraseFit
    spoken: bool


@dataclass(frozen=True, slots=True)
class RevoicedPart:
    """The next samples, float32 (channels, n) at `sample_rate` Hz, and the phrases that begin in them."""

    samples: Samples
    sample_rate: int
    phrases: tuple[RevoicedPhrase, ...] = ()

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.samples[0]) / self.sample_rate


@dataclass(slots=True)
class RevoicingSummary:
    """What became of a recording: seconds of sound that was made, phrases, those of them that the voice could not say, the
    highest speed, and how much later than in the recording a phrase began at most."""

    seconds: float = 0.0
    phrases: int = 0
    unspoken_phrases: int = 0
    max_speed: float = 1.0
    max_drift_s: float = 0.0

    def note(self, part: RevoicedPart) -> None:
        """Takes the next part."""
        self.seconds += part.seconds
        for phrase in part.phrases:
            self.phrases += 1
            self.unspoken_phrases += not phrase.spoken
            self.max_speed = max(self.max_speed, phrase.fit.speed)
            self.max_drift_s = max(self.max_drift_s, phrase.fit.drift_s)


def no_speech() -> MotetError:
    """The error for a recording without speech."""
    return fail("invalid", "Nobody speaks in the recording.", "Send one with speech.", param="file", code="no_speech")


def ensure_leaves_background(model: str, traits: SeparationTraits) -> None:
    """Raises `MotetError` (unsupported) for a separation model that does not tell speech from everything else."""
    ensure_enhances(model, traits)
    if len(traits.stems) < 2:
        cause = f"The model {quoted(model)} gives only the speech, and not what is behind it."
        raise fail("unsupported", cause, "Name another model, or drop the background.", param="model")


async def sound_of_phrase(chunks: AsyncGenerator[AudioChunk], sample_rate: int) -> Samples:
    """The sound of a phrase, mono float32 (n,), without the silence around it; empty if the voice cannot say the phrase.
    Raises what the chunks raise otherwise."""
    try:
        async with aclosing(chunks):
            sounds = [chunk.samples async for chunk in chunks]
    except MotetError as error:
        if error.failure.code not in UNSPOKEN:
            raise
        sounds = []
    return without_outer_pauses(np.concatenate([np.zeros(0, np.float32), *sounds]), sample_rate)


class Background:
    """What is heard behind the speech of a recording, in order. `open` it before use."""

    def __init__(self, merged: AsyncGenerator[Merged]) -> None:
        self.sample_rate = 0
        self._merged = merged
        self._rows: Samples = np.zeros((1, 0), np.float32)
        self._ended = False

    async def open(self) -> None:
        """Waits for the first part. Raises what the separation raises."""
        await self._fill(1)

    async def take(self, count: int) -> Samples:
        """The next `count` samples (channels, count), fewer at the end."""
        await self._fill(count)
        taken, self._rows = self._rows[:, :count], self._rows[:, count:]
        return taken

    async def _fill(self, count: int) -> None:
        while self._rows.shape[1] < count and not self._ended:
            merged = await anext(self._merged, None)
            if merged is None:
                self._ended = True
            else:
                behind = _behind_speech(merged)
                rows = [self._rows, behind] if self.sample_rate else [behind]
                self._rows, self.sample_rate = np.concatenate(rows, axis=1), merged.sample_rate


def _behind_speech(merged: Merged) -> Samples:
    """The sum of all stems without the speech (channels, n)."""
    total: Samples = np.sum([rows for stem, rows in merged.stems.items() if stem != SPEECH], axis=0, dtype=np.float32)
    return total


@dataclass(frozen=True, slots=True)
class VoiceTrack:
    """How phrases are laid out in time. The voice speaks at `voice_rate` Hz. `recording_s` gives the recording's length once
    all phrases are known. `beside` runs the arithmetic, on another thread if it is `asyncio.to_thread`."""

    fitter: PhraseFitter
    voice_rate: int
    recording_s: Callable[[], float]
    beside: Callable[..., Awaitable[Any]] = inline

    async def parts(
        self,
        calls: AsyncGenerator[tuple[Phrase, Started]],
        sound_of: Callable[[Started], Awaitable[Samples]],
        rate: int,
    ) -> AsyncGenerator[RevoicedPart]:
        """The voice alone, (1, n) at `rate` Hz, with silence where it does not speak: at least as long as the recording."""
        reached = 0
        async with aclosing(calls):
            async for phrase, call in calls:
                sound = await sound_of(call)
                fit = self.fitter.fit(phrase, len(sound) / self.voice_rate)
                start = max(reached, round(fit.start_s * rate))
                for part in _silence(start - reached, rate):
                    yield part
                rows = (await self.beside(_fitted, sound, self.voice_rate, rate, fit.speed))[np.newaxis]
                yield RevoicedPart(rows, rate, (RevoicedPhrase(phrase, fit, len(sound) > 0),))
                reached = start + rows.shape[1]
        for part in _silence(round(self.recording_s() * rate) - reached, rate):
            yield part


async def revoice(
    calls: AsyncGenerator[tuple[Phrase, Started]],
    sound_of: Callable[[Started], Awaitable[Samples]],
    track: VoiceTrack,
    merged: AsyncGenerator[Merged] | None,
) -> AsyncGenerator[RevoicedPart]:
    """The recording in another voice, part by part in order. Raises what the calls and `merged` raise.

    `calls` are the phrases with the started calls of the voice, in order, and `sound_of` gives a call's sound: mono float32
    (n,) at the track's `voice_rate`. `merged` are the recording's stems if what is behind the speech stays; then the result
    has the recording's channels and the separation's sample rate. Otherwise it is mono at the voice's rate.
    """
    if merged is None:
        async with aclosing(track.parts(calls, sound_of, track.voice_rate)) as parts:
            async for part in parts:
                yield part
        return
    async with aclosing(merged), aclosing(calls):
        background = Background(merged)
        await background.open()
        rate = background.sample_rate
        async with aclosing(track.parts(calls, sound_of, rate)) as parts:
            async for part in parts:
                behind = await background.take(part.samples.shape[1])
                yield RevoicedPart(await track.beside(mixed, behind, part.samples), rate, part.phrases)
        while (behind := await background.take(round(SILENCE_S * rate))).shape[1]:
            yield RevoicedPart(behind, rate)


def mixed(behind: Samples, voice: Samples) -> Samples:
    """A voice (1, n) in the middle of what is behind it, (channels, at most n), at its own level: (channels, n)."""
    total: Samples = np.repeat(voice, len(behind), axis=0)
    total[:, : behind.shape[1]] += behind
    return total


def _fitted(sound: Samples, voice_rate: int, rate: int, speed: float) -> Samples:
    return resample(stretched(sound, voice_rate, speed), voice_rate, rate) if len(sound) else sound


def _silence(count: int, rate: int) -> Iterator[RevoicedPart]:
    """`count` samples of silence in parts; none if `count` is not positive."""
    most = round(SILENCE_S * rate)
    for start in range(0, count, most):
        yield RevoicedPart(np.zeros((1, min(most, count - start)), np.float32), rate)
