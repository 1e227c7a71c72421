"""From text to a stream of sound, wherever the engine runs.

Text is spoken in requests of a bounded number of pieces. A reader that stops reading therefore costs the sound of one
request and no more, whatever the length of the text, and the next request can go to any replica.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, replace

import numpy as np

from deployments.audio.stretch import Stretcher
from deployments.engines.protocols import (
    AudioChunk,
    FinishReason,
    SpeechEngine,
    SpeechRequest,
    SpeechTraits,
    UtteranceT,
    VoiceReference,
)
from deployments.errors import MotetError, fail, quoted
from deployments.text import voice_mix
from deployments.text.sources import PieceSource
from deployments.text.speakers import Script, check_speakers

CHARACTERS_PER_SECOND = 15.0
"""English read aloud: about 150 words of six characters a minute. Only used to bound how much is asked for at once."""


@dataclass(frozen=True, slots=True)
class SpeechTask:
    """A text to be spoken: `pieces` in order (`by_speakers`), with the voice resolved and the speed as the caller gave it. A
    text that is still being written has none yet.

    With a `reference` it is spoken like that clip, and `voice` is the clip's id. `instructions` are for a model that takes
    them.
    """

    pieces: tuple[str, ...]
    voice: str
    speed: float
    seed: int
    reference: VoiceReference | None = None
    instructions: str = ""

    @property
    def characters(self) -> int:
        """Characters to be spoken."""
        return sum(map(len, self.pieces))

    @property
    def predicted_seconds(self) -> float:
        """How long the sound will be, about."""
        return self.characters / CHARACTERS_PER_SECOND / self.speed


def predicted_seconds(request: SpeechRequest) -> float:
    """How long the sound of one request will be, about."""
    return sum(map(len, request.pieces)) / CHARACTERS_PER_SECOND / request.speed


@dataclass(frozen=True, slots=True)
class Pace:
    """A speed split into what the model does itself and the time-stretch that remains."""

    speed: float
    tempo: float


def pace_of(speed: float, traits: SpeechTraits) -> Pace:
    """The model goes as far as it can; stretching the sound does the rest."""
    own = min(max(speed, traits.min_speed), traits.max_speed)
    return Pace(own, speed / own)


async def requests_of(
    task: SpeechTask, text: PieceSource, speed: float, seconds_of_audio: float, first: int = 0
) -> AsyncGenerator[SpeechRequest]:
    """Requests of at most about `seconds_of_audio` each for the pieces of a text from number `first` on, in order."""
    while pieces := await text.take(first, seconds_of_audio * CHARACTERS_PER_SECOND):
        yield _request(task, pieces, speed, first)
        first += len(pieces)


def _request(task: SpeechTask, pieces: tuple[str, ...], speed: float, first_index: int) -> SpeechRequest:
    return SpeechRequest(
        pieces,
        task.voice,
        speed,
        task.seed,
        first_index,
        reference=task.reference,
        instructions=task.instructions,
    )


def by_speakers(pieces: tuple[str, ...], traits: SpeechTraits, voice: str) -> tuple[str, ...]:
    """The pieces of a text as `speakers_of` has them. Raises `MotetError` (invalid) also where nobody says anything."""
    script = speakers_of(traits, voice)(pieces)
    if pieces and not script:
        raise fail("invalid", "The script has nothing to say.", "Send some words.", param="input", code="empty_input")
    return script


def speakers_of(traits: SpeechTraits, voice: str) -> Callable[[Sequence[str]], tuple[str, ...]]:
    """Takes the next pieces of a text. Where the model has several speakers, every piece says whose it is then: it is spoken
    without those before it.

    The function raises `MotetError` (invalid) where a speaker has none of the voices of `voice`.
    """
    if traits.most_speakers == 1:
        return tuple
    script, voices = Script(), voice.count(",") + 1

    def carried_on(pieces: Sequence[str]) -> tuple[str, ...]:
        marked = script.carry_on(pieces)
        check_speakers(marked, voices)
        return marked

    return carried_on


def nothing_to_say() -> MotetError:
    """What to say of an input without a word in it."""
    return fail("invalid", "The input has nothing to say.", "Send some words.", param="input", code="empty_input")


def no_sound(reason: FinishReason) -> MotetError:
    """What to say of an input with words of which the model made no sound at all. It is the input's fault only where the
    model came to its end with them."""
    if reason == "stop":
        return fail(
            "invalid",
            "The input has no words that this model can say.",
            "Send text in one of the model's languages.",
            param="input",
            code="empty_input",
        )
    cause = f"The model made no sound of this input (finish_reason {reason!r})."
    return fail("engine", cause, "Try another seed, voice or model.", code="no_sound")


async def speak(
    task: SpeechTask,
    text: PieceSource,
    traits: SpeechTraits,
    call: Callable[[SpeechRequest], AsyncGenerator[AudioChunk]],
    seconds_of_audio: float,
    first: int = 0,
) -> AsyncGenerator[AudioChunk]:
    """The sound of a text from its piece `first` on, chunk by chunk, in order; `call` speaks one request. Only the very last
    chunk says so: an empty one, where the text turned out to have ended before."""
    pace = pace_of(task.speed, traits)
    stretcher = Stretcher(traits.sample_rate, pace.tempo)
    chunk: AudioChunk | None = None
    async with aclosing(requests_of(task, text, pace.speed, seconds_of_audio, first)) as requests:
        async for request in requests:
            async with aclosing(call(request)) as chunks:
                async for chunk in chunks:
                    last = chunk.last and text.ends_at(request.first_index + len(request.pieces))
                    chunk = replace(stretched(chunk, stretcher), last=last)
                    yield chunk
    if chunk is not None and not chunk.last:
        yield replace(chunk, samples=chunk.samples[:0], text="", last=True)


def stretched(chunk: AudioChunk, stretcher: Stretcher) -> AudioChunk:
    """The same chunk at the stretcher's tempo. Each piece of the text is a sound by itself: what may come long after it, or
    from another model, is not waited for, and no sound leaves under the name of the next piece."""
    samples = stretcher.push(chunk.samples)
    if chunk.piece_over and len(tail := stretcher.finish()):
        samples = np.concatenate([samples, tail])
    return replace(chunk, samples=samples)


def speak_here(task: SpeechTask, engine: SpeechEngine[UtteranceT]) -> Iterator[AudioChunk]:
    """The sound of a whole task by an engine in this process, on this thread."""
    return speak_as_written(task, [task.pieces], engine)


def speak_as_written(
    task: SpeechTask, groups: Iterable[tuple[str, ...]], engine: SpeechEngine[UtteranceT]
) -> Iterator[AudioChunk]:
    """The same of a text whose pieces come in groups, each spoken when it is there."""
    pace = pace_of(task.speed, engine.traits)
    stretcher = Stretcher(engine.traits.sample_rate, pace.tempo)
    first = 0
    for pieces in groups:
        with closing(_steps(engine, _request(task, pieces, pace.speed, first))) as chunks:
            for chunk in chunks:
                yield stretched(chunk, stretcher)
        first += len(pieces)


def _steps(engine: SpeechEngine[UtteranceT], request: SpeechRequest) -> Generator[AudioChunk]:
    utterance = engine.open(request)
    try:
        while not utterance.finished:
            chunk = _only(engine.step([utterance]))
            if not chunk.pending:
                yield chunk
    finally:
        engine.close(utterance)


def _only(results: Sequence[AudioChunk | Exception]) -> AudioChunk:
    result = results[0]
    if isinstance(result, Exception):
        raise result
    return result


def choose_voice(wanted: str | None, traits: SpeechTraits, aliases: Mapping[str, str]) -> str:
    """The model's own name of a voice or, where the model mixes, of a mixture; where it has several speakers, a voice for
    each. Raises `MotetError` with the voices."""
    if wanted is None and not traits.voices:
        raise _no_voice("This model has no voice of its own.", traits, aliases)
    if wanted is None:
        return traits.default_voice
    if traits.mixes:
        return str(voice_mix.parse(wanted, lambda name: _own_voice(name, traits, aliases)))
    if traits.most_speakers > 1:
        return ",".join(_voices_of_speakers(wanted.split(","), traits, aliases))
    return _own_voice(wanted, traits, aliases)


def _voices_of_speakers(wanted: Sequence[str], traits: SpeechTraits, aliases: Mapping[str, str]) -> list[str]:
    if len(wanted) > traits.most_speakers:
        raise _no_voice(f"This model has at most {traits.most_speakers} speakers.", traits, aliases)
    return [_own_voice(name.strip(), traits, aliases) for name in wanted]


def _own_voice(wanted: str, traits: SpeechTraits, aliases: Mapping[str, str]) -> str:
    name = aliases.get(wanted, wanted)
    if name not in {voice.id for voice in traits.voices}:
        raise _no_voice(f"There is no voice {quoted(wanted)}.", traits, aliases)
    return name


def _no_voice(cause: str, traits: SpeechTraits, aliases: Mapping[str, str]) -> MotetError:
    known = [voice.id for voice in traits.voices] + sorted(aliases)
    remedies = [f"Voices: {', '.join(known)}."] if known else []
    if traits.clones:
        several = " Several speakers need clips in the model's folder." if traits.most_speakers > 1 else ""
        remedies.append(f"It speaks like a clip that you send to POST /v1/audio/voices.{several}")
    return fail("not_found", cause, " ".join(remedies), param="voice", code="voice_not_found")
