"""The speech driver: from the pieces of a text to a stream of sound, wherever the engine runs.

The service, the command line and the bulk job all call `speak`. They differ in the `SpeechClient` that they pass in: one that
calls the replicas of a model, or one of `in_process_speech.py`.

The driver sends the text in requests of a bounded number of pieces. A reader that stops reading therefore costs the sound of
one request at most, and each request can go to another replica.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from deployments.audio.stretch import Stretcher
from deployments.engines.protocols import AudioChunk, FinishReason, SpeechRequest, SpeechTraits, first_reason
from deployments.errors import MotetError, fail
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

    def open(self, request: SpeechRequest) -> SpeechCall:
        """Begins a request. The caller closes it."""


class PieceStore(Protocol):
    """Keeps the sound of pieces, before it is stretched. A piece is the one with number `index` of a request."""

    def get(self, request: SpeechRequest, index: int) -> Sequence[AudioChunk] | None:
        """The chunks of a piece; None if they are not kept."""

    def keep(self, request: SpeechRequest, index: int, chunks: Sequence[AudioChunk]) -> None:
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
) -> AsyncGenerator[AudioChunk]:
    """The sound of a text, chunk by chunk, in order.

    `request` says who speaks and how; its `speed` may lie outside of the model's range. It also has the text, unless `text`
    has it. The text is spoken from piece number `first` on, in requests of at most about `max_request_seconds` of audio. The
    driver asks the `store` for the first pieces of each request and the engine for the rest.

    Only the very last chunk is `last`. It is empty when the text turns out to have ended before it. Raises what the engine
    raises, and `MotetError` when a whole text has no words, or the model makes no sound of it.
    """
    text = text or WholeText(request.pieces)
    speed, tempo = split_speed(request.speed, traits)
    progress = _Progress(Stretcher(traits.sample_rate, tempo))
    after = first
    while pieces := await text.take(after, max_request_seconds * CHARACTERS_PER_SECOND):
        part = replace(request, pieces=pieces, speed=speed, first_index=after)
        after += len(pieces)
        kept, rest = _divided(part, store)
        for chunk in kept:
            yield progress.pass_on(chunk, text.ends_at(after))
        if not rest.pieces:
            continue
        piece: list[AudioChunk] = []
        call = client.open(rest)
        try:
            while (made := await call.step()) is not None:
                if store:
                    piece.append(made)
                    if made.piece_over:
                        store.keep(rest, made.index, piece)
                        piece = []
                yield progress.pass_on(made, text.ends_at(after))
        finally:
            await call.close()
    if progress.last_chunk and not progress.last_chunk.last:
        yield replace(progress.last_chunk, samples=progress.last_chunk.samples[:0], text="", last=True)
    if first == 0 and not progress.has_sound:
        raise no_sound(progress.finish_reason) if text.pieces else no_words()


def _divided(request: SpeechRequest, store: PieceStore | None) -> tuple[list[AudioChunk], SpeechRequest]:
    """The kept chunks of the first pieces of a request, and a request for the others."""
    kept: list[AudioChunk] = []
    ahead, end = request.first_index, request.first_index + len(request.pieces)
    while store and ahead < end and (chunks := store.get(request, ahead)) is not None:
        ahead += 1
        kept += (replace(chunk, last=chunk.last and ahead == end) for chunk in chunks)
    return kept, replace(request, pieces=request.pieces[ahead - request.first_index :], first_index=ahead)


class _Progress:
    """The chunks of a text that were passed on so far."""

    def __init__(self, stretcher: Stretcher) -> None:
        self.last_chunk: AudioChunk | None = None
        self.has_sound = False
        self.finish_reason: FinishReason = "stop"
        self._stretcher = stretcher

    def pass_on(self, chunk: AudioChunk, text_ends: bool) -> AudioChunk:
        """The chunk at the stretcher's tempo. Each piece is stretched by itself: it waits for no later one, which may come
        much later or from another model."""
        samples = self._stretcher.push(chunk.samples)
        if chunk.piece_over and len(tail := self._stretcher.finish()):
            samples = np.concatenate([samples, tail])
        last = chunk.last and text_ends
        if samples is not chunk.samples or last != chunk.last:  # at its own tempo, most chunks pass unchanged
            chunk = replace(chunk, samples=samples, last=last)
        self.last_chunk = chunk
        self.has_sound = self.has_sound or len(samples) > 0
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
