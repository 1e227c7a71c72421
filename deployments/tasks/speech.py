"""The speech driver: from the pieces of a text to a stream of sound, wherever the engine runs.

The service, the command line and the bulk job all call `speak`. They differ in the `SpeechClient` that they pass in: one that
calls the replicas of a model, or one of `in_process_speech.py`.

The driver sends the text in requests of a bounded number of pieces. A reader that stops reading therefore costs the sound of
one request at most, and each request can go to another replica.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

import numpy as np

from deployments.audio.loudness import Leveller
from deployments.audio.stretch import FASTEST, SLOWEST, Stretcher
from deployments.engines.protocols import AudioChunk, FinishReason, SpeechRequest, SpeechTraits, first_reason
from deployments.errors import MotetError, fail
from deployments.tasks.sentence_joins import SentenceJoins
from deployments.tasks.spoken_words import WrittenWords
from deployments.text.piece import Piece, as_written
from deployments.text.segmentation import has_words
from deployments.text.sources import PieceSource, WholeText

CHARACTERS_PER_SECOND = 15.0
"""English read aloud: about 150 words of six characters a minute. Used only for predictions and to bound requests."""


class SpeechCall(Protocol):
    """One request while an engine speaks it."""

    async def step(self) -> AudioChunk | None:
        """The next chunk that is not pending; None at the end."""

    async def close(self) -> None:
        """Frees what the engine holds for the request."""


class SpeechClient(Protocol):
    """A way to call a speech engine."""

    def open(self, request: SpeechRequest, tempo: float) -> SpeechCall:
        """Begins a request whose sound is played `tempo` times as fast. The caller closes it."""


class PieceStore(Protocol):
    """Keeps the sound of pieces, before it is stretched. A piece is the one with number `index` of a request."""

    async def get(self, request: SpeechRequest, index: int, tempo: float) -> Sequence[AudioChunk] | None:
        """The chunks of a piece, which are played `tempo` times as fast; None if they are not kept."""

    async def keep(self, request: SpeechRequest, index: int, chunks: Sequence[AudioChunk]) -> None:
        """Keeps the chunks of a whole piece."""


def predicted_seconds(request: SpeechRequest) -> float:
    """About how many seconds of sound a request brings."""
    return sum(map(len, request.pieces)) / CHARACTERS_PER_SECOND / request.speed


def split_speed(speed: float, traits: SpeechTraits) -> tuple[float, float]:
    """The part of a speed that the model does itself, as much as it can, and the tempo of the time-stretch that does the
    rest."""
    own = min(max(speed, traits.min_speed), traits.max_speed)
    return own, speed / own


async def speak(
    request: SpeechRequest,
    traits: SpeechTraits,
    client: SpeechClient,
    *,
    text: PieceSource | None = None,
    max_request_seconds: float = math.inf,
    first: int = 0,
    store: PieceStore | None = None,
    loudness_lufs: float | None = None,
) -> AsyncGenerator[AudioChunk]:
    """The sound of a text, chunk by chunk, in order.

    `request` says who speaks and how; its `speed` may lie outside of the model's range. It also has the text, unless `text`
    has it. The text is spoken from piece number `first` on, in requests of at most about `max_request_seconds` of audio. The
    driver asks the `store` for the first pieces of each request and the engine for the rest. Each voice is brought to
    `loudness_lufs`, if that is given.

    Only the very last chunk is `last`. It is empty when the text turns out to have ended before it. Raises what the engine
    raises, and `MotetError` when a whole text has no words, or the model makes no sound of it.
    """
    text = text or WholeText(as_written(request.pieces))
    progress = _Progress(traits.sample_rate, loudness_lufs)
    after = first
    while pieces := await text.take(after, max_request_seconds * CHARACTERS_PER_SECOND):
        for part in _parts(pieces, request, after, traits):
            after = part.end
            progress.begin(part)
            kept, rest = await part.divided(store)
            for chunk in kept:
                yield progress.pass_on(chunk, text.ends_at(after))
            if not rest.pieces:
                continue
            piece: list[AudioChunk] = []
            call = client.open(rest, part.tempo)
            try:
                while (made := await call.step()) is not None:
                    if store:
                        piece.append(made)
                        if made.piece_over:
                            await store.keep(rest, made.index, piece)
                            piece = []
                    yield progress.pass_on(made, text.ends_at(after))
            finally:
                await call.close()
    if progress.last_chunk and not progress.last_chunk.last:
        yield replace(progress.last_chunk, samples=progress.last_chunk.samples[:0], text="", words=(), last=True)
    if first == 0 and not progress.has_sound:
        raise no_sound(progress.finish_reason) if any(map(is_spoken, text.pieces)) else no_words()


def is_spoken(piece: Piece) -> bool:
    """Whether a model reads something of a piece. Any other piece is only its pause."""
    return has_words(piece.spoken)


@dataclass(frozen=True, slots=True)
class _Part:
    """Neighbouring pieces that one request to a model can speak, from number `first` on. The model's sound is played `tempo`
    times as fast. `pieces` without words are in parts of their own, whose request has no pieces."""

    request: SpeechRequest
    sample_rate: int
    tempo: float
    pieces: tuple[Piece, ...]

    @property
    def first(self) -> int:
        """The number of the first piece."""
        return self.request.first_index

    @property
    def end(self) -> int:
        """The number of the piece after the last one."""
        return self.first + len(self.pieces)

    def piece(self, number: int) -> Piece:
        """The piece with a number of the whole text."""
        return self.pieces[number - self.first]

    async def divided(self, store: PieceStore | None) -> tuple[list[AudioChunk], SpeechRequest]:
        """The chunks of the first pieces, as far as they need no engine, and a request for the other pieces."""
        request, ahead, kept = self.request, self.first, list[AudioChunk]()
        if not request.pieces:
            nothing = np.zeros(0, np.float32)
            numbers = range(self.first, self.end)
            return [AudioChunk(nothing, self.sample_rate, n, "", last=n + 1 == self.end) for n in numbers], request
        while store and ahead < self.end and (chunks := await store.get(request, ahead, self.tempo)) is not None:
            ahead += 1
            kept += (replace(chunk, last=chunk.last and ahead == self.end) for chunk in chunks)
        return kept, replace(request, pieces=request.pieces[ahead - self.first :], first_index=ahead)


def _parts(pieces: Sequence[Piece], request: SpeechRequest, first: int, traits: SpeechTraits) -> Iterator[_Part]:
    """The pieces from number `first` on as parts, in order."""
    for (spoken, speed, voice), group in groupby(pieces, lambda piece: (is_spoken(piece), piece.speed, piece.voice)):
        alike = tuple(group)
        own, tempo = split_speed(_within(request.speed, speed), traits)
        part = replace(request, speed=own, first_index=first, pieces=tuple(piece.spoken for piece in alike if spoken))
        if voice is not None:
            part = replace(part, voice=voice, reference=None)
        yield _Part(part, traits.sample_rate, tempo, alike)
        first += len(alike)


def _within(speed: float, factor: float) -> float:
    """A speed times the factor of a piece, within what the time-stretch can do."""
    return speed if factor == 1.0 else min(max(speed * factor, SLOWEST), FASTEST)


class _Progress:
    """The chunks of a text that were passed on so far."""

    def __init__(self, sample_rate: int, loudness_lufs: float | None) -> None:
        self.last_chunk: AudioChunk | None = None
        self.has_sound = False
        self.finish_reason: FinishReason = "stop"
        self._rate = sample_rate
        self._joins = SentenceJoins()
        self._words = WrittenWords()
        self._stretcher = Stretcher(sample_rate, 1.0)
        self._leveller = None if loudness_lufs is None else Leveller(sample_rate, loudness_lufs)
        self._part: _Part | None = None

    def begin(self, part: _Part) -> None:
        """The next chunks are those of a part. Raises `MotetError` (invalid) for a tempo that is out of range."""
        if self._part is None or self._part.tempo != part.tempo:
            self._stretcher = Stretcher(self._rate, part.tempo)
        self._part = part

    def pass_on(self, chunk: AudioChunk, text_ends: bool) -> AudioChunk:
        """The chunk at the part's tempo and the wanted loudness, with the pause after its piece. Each piece is stretched by
        itself: it waits for no later one, which may come much later or from another model."""
        assert self._part is not None
        piece = self._part.piece(chunk.index)
        chunk = self._joins.joined(chunk, goes_on=piece.goes_on)
        samples = self._stretcher.push(chunk.samples)
        if chunk.piece_over and len(tail := self._stretcher.finish()):
            samples = np.concatenate([samples, tail])
        self.has_sound = self.has_sound or len(samples) > 0
        if self._leveller:
            samples = self._leveller.push(samples, self._part.request.voice, ends=chunk.piece_over)
        if chunk.piece_over and (pause := round(piece.pause_s * chunk.sample_rate)):
            samples = np.concatenate([samples, np.zeros(pause, np.float32)])
        last = chunk.last and text_ends
        if chunk.words:
            chunk = replace(chunk, words=self._words.of(chunk, piece, self._part.tempo))
        if samples is not chunk.samples or last != chunk.last:  # at its own tempo, most chunks pass unchanged
            chunk = replace(chunk, samples=samples, last=last)
        self.last_chunk = chunk
        self.finish_reason = first_reason(self.finish_reason, chunk.finish_reason)
        return chunk


def no_words() -> MotetError:
    """The error for an input without a word."""
    return fail("invalid", "The input has no words to speak.", "Send some words.", param="input", code="empty_input")


def no_sound(reason: FinishReason) -> MotetError:
    """The error for an input with words of which the model made no sound. It is the client's error only if the model came to
    its end."""
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
