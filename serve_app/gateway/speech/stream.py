"""One speech request from its plan to its bytes.

A chunk passes at most five asynchronous generators, which `tests/unit/test_chunk_way.py` counts:

    replica's step -> wire
    1  PlacedModel.stream        the call of one placement's replica
    2  ModelDirectory.stream     the first placement that answers
    3  speak                     the task driver: asks the piece cache, then the engine; stretches
       PlaybackBuffer            a task writes into it, the encoder awaits `next_frame`
    4  SpeechStream.encoded      follows the source map, encodes
    5  SpeechStream.events       server-sent events; `messages` for a WebSocket, nothing for a file
       ClosingStream             the response

Every stage only awaits the one before it. Whoever stops reading closes the last generator, and each stage closes the one
before it in its `finally`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import replace
from itertools import pairwise
from typing import Any

from deployments.audio.encode import Encoder, open_encoder
from deployments.audio.formats import FORMATS
from deployments.audio.resample import resampled_length
from deployments.engines.protocols import AudioChunk, FinishReason, Samples, SpeechRequest, SpokenWord
from deployments.tasks.speech import PieceStore, speak
from deployments.text.piece import Piece
from deployments.text.sources import ForOneVoice, PieceSource
from deployments.tracing.spans import below_current, ended
from serve_app.gateway.jobs.context import JOB
from serve_app.gateway.request_timing import Recorder, RequestTiming
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.routing.directory import ModelDirectory
from serve_app.gateway.speech import events
from serve_app.gateway.speech.answers import SpeechAudioConcealed
from serve_app.gateway.speech.events import PieceEvents, PieceStart
from serve_app.gateway.speech.finished_pieces import FinishedPieces
from serve_app.gateway.speech.piece_cache import PieceCache
from serve_app.gateway.speech.plan import SpeechPlan
from serve_app.gateway.speech.playback import Frame, PlaybackBuffer
from serve_app.gateway.speech.quality import StreamQuality
from serve_app.gateway.speech.replica_client import ReplicaClient
from serve_app.gateway.speech.resume import START, ResumePoint
from serve_app.gateway.speech.source_map import SourceMap, SourcePosition, SourceSpan
from serve_app.gateway.speech.spoken_words import SpokenWords
from serve_app.gateway.sse import event

FIRST_SLICE_SECONDS = 0.3
SLICE_SECONDS = 2.0
"""How much sound is encoded at once, and how much of it for the first bytes: hibari begins with a quarter of a second of
silence, which alone helps no listener."""

MAX_EVENT_SAMPLES = 6 * 1024
MAX_RESAMPLED_EVENT_SAMPLES = 2 * 1024
"""Samples that are encoded for one server-sent event. In every format they make less than `sse.MAX_AUDIO_BYTES`: two bytes
for each sample, and for FLAC a frame of up to 4608 samples that the encoder held back before. A resampler returns up to 6500
samples at once that it held back."""

MAX_MESSAGE_BYTES = 64 * 1024
"""Sound in one message of a WebSocket. Clients refuse long messages, `websockets` those above 1 MiB, and a piece of the text
may be longer. It is even, so that no 16-bit sample is cut in two."""


class SpeechStream:
    """The bytes or events of one request. It frees everything that it holds when its generator ends or is closed."""

    def __init__(
        self,
        plan: SpeechPlan,
        directory: ModelDirectory,
        cache: PieceCache,
        ticket: Ticket,
        recorder: Recorder,
        resume: ResumePoint = START,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.timing = RequestTiming()
        self._plan = plan
        self._directory = directory
        self._cache = cache
        self._ticket = ticket
        self._recorder = recorder
        self._resume = resume
        self._source_map = SourceMap()
        self._given = self._reached = 0
        """Samples that the encoder was given, and samples in its bytes so far, at the model's rate."""
        self._ahead = deque[Frame | None]()
        """Frames that were read before the encoder was opened. None is the end."""
        self._passed: list[SourceSpan] = []
        self._announced = _started_before(resume.position)
        self._words = SpokenWords(plan, directory, resume.samples) if plan.word_timestamps else None
        self._playback = PlaybackBuffer(
            plan.traits.sample_rate,
            plan.pacing,
            played=plan.played,
            resumed_samples=resume.samples,
            fallback=self._fallback_from if plan.fallback else None,
            watch=self._words.add if self._words else None,
            clock=clock,
        )
        self._reported_trouble = self._trouble
        self._text = AwaitedText(plan.text, self._playback, ticket)
        self._quality = StreamQuality(plan, directory, lambda: self._playback.buffered_seconds)
        self._client = ReplicaClient(directory, plan.model, self.timing, ticket, self._playback)

    @property
    def placement(self) -> str | None:
        """The placement that makes the sound. None as long as all of it comes from the cache."""
        return self._client.placement

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the first piece that did not end by itself was ended; None as long as that may still change."""
        report = self._playback.report
        return report.finish_reason if report.all_made or report.finish_reason != "stop" else None

    async def encoded(self, max_samples: int | None = None, whole_seconds: float = 0.0) -> AsyncGenerator[bytes]:
        """The bytes of one file or stream in the plan's format. Encoding that takes time runs beside the event loop. At most
        `max_samples` samples of the model are encoded at once. A header states the length if all sound was made before the
        first byte; the first byte waits for that as long as the sound is not longer than `whole_seconds`."""
        with ExitStack() as held:  # closes each one even if another cannot be closed
            held.callback(self.timing.record, self._plan.model, self._playback.report, self._recorder)
            held.callback(self._recorder.pieces_checked, self._plan.model, self._quality.found)
            held.callback(self._ticket.close)
            if self._words:
                held.callback(self._words.close)
            async with self._playback.filled_from(self._chunks(), self._resume.position):
                encoder = self._opened_encoder(await self._known_length(whole_seconds))
                held.callback(encoder.close)
                held.enter_context(ended(below_current("encode")))
                while (frame := await self._next_frame()) is not None:
                    self._follow(frame)
                    for samples in self._slices(frame.samples, max_samples or len(frame.samples)):
                        with self.timing.stage("encode"):
                            data = await self._beside_the_loop(encoder.encode, samples)
                        if data:
                            self._note_reached(encoder)
                            with self.timing.stage("write"):
                                yield data
            if data := await self._beside_the_loop(encoder.finish):
                self._note_reached(encoder)
                yield data
            self._ticket.complete()
            if self._words:
                await self._words.finish()

    async def events(self) -> AsyncGenerator[bytes]:
        """The stream as server-sent events. Those with sound have an id, and leave out what the client already has."""
        sent, key, words = 0, self._plan.key, deque[SpokenWord]()
        async with aclosing(self.encoded(self._event_samples)) as encoded:
            async for data in encoded:
                new, starts = data[max(0, self._resume.bytes - sent) :], self.take_piece_starts()
                words += (word for _, word in self.take_words())
                sent += len(data)
                if new:
                    sound = events.audio_delta(new, starts, events.next_words(words))
                    yield event(sound, self._resume_point(sent).event_id(key))
                if trouble := self.new_trouble():
                    yield event(trouble)
                for report in self._quality.new_events():
                    yield event(report)
        words += (word for _, word in self.take_words())
        while words:
            yield event(events.audio_delta(b"", (), events.next_words(words)))
        yield event({"type": "speech.audio.done", **self.summary()})

    async def messages(self) -> AsyncGenerator[Mapping[str, Any] | bytes]:
        """The stream as messages of a WebSocket session: sound as bytes, and events around the sound of each piece."""
        pieces = PieceEvents(self._plan)
        async with aclosing(self.encoded()) as encoded:
            async for data in encoded:
                for message in (message for piece in self.take_piece_starts() for message in pieces.start(piece)):
                    yield message
                for message in events.words_of_pieces(self.take_words()):
                    yield message
                pieces.bytes += len(data)
                for start in range(0, len(data), MAX_MESSAGE_BYTES):
                    yield data[start : start + MAX_MESSAGE_BYTES]
                for message in pieces.end() if self.piece_is_over else ():
                    yield message
                if trouble := self.new_trouble():
                    yield trouble
                for report in self._quality.new_events():
                    yield report
        for message in (*events.words_of_pieces(self.take_words()), *pieces.end()):
            yield message
        yield {"type": "session.done", "total_sentences": pieces.count, **self.summary()}

    def take_piece_starts(self) -> list[PieceStart]:
        """The pieces of the text, or their repetitions by a fallback voice, that begin in the latest bytes, except those
        whose start this client already has. Each is returned once. Must be called after all bytes, also those not sent."""
        starts = []
        for span in self._passed:
            piece = (span.position.piece, span.position.fallback_from)
            if piece != self._announced and span.start >= self._resume.samples:
                starts.append(self._start_of(span))
            self._announced = piece
        return starts

    def take_words(self) -> list[tuple[int, SpokenWord]]:
        """The words that begin in the bytes so far and were not taken before, with the numbers of their pieces, in seconds of
        this stream."""
        return self._words.take() if self._words else []

    @property
    def piece_is_over(self) -> bool:
        """Whether the bytes so far hold all sound of the current piece. Unknown (False) while a codec holds sound back; then
        only the start of the next piece shows it."""
        return self._given > 0 and self._playback.ends_at(self._source_map.position)

    def new_trouble(self) -> SpeechAudioConcealed | None:
        """The event for gaps or a fallback voice since the last call; None if there were none."""
        if self._reported_trouble == self._trouble:
            return None
        self._reported_trouble = self._trouble
        return events.concealed(self._playback.report)

    def summary(self) -> dict[str, object]:
        """The fields of the last event. `finish_reason` is "stop", or why the model was stopped ("length", ...)."""
        report = self._playback.report
        seconds = max(0.0, report.sent_seconds - self._resume.samples / self._plan.traits.sample_rate)
        return {
            "usage": events.usage(sum(len(piece.text) for piece in self._text.pieces), seconds),
            "timing": self.timing.milliseconds(),
            "finish_reason": report.finish_reason,
            **self._quality.summary(),
        }

    async def _known_length(self, whole_seconds: float) -> int | None:
        """The length of the encoded sound in samples, if all of it was made. Reads the first frame, and more of them up to
        about `whole_seconds`."""
        rate, read = self._plan.traits.sample_rate, 0
        while not self._ahead or (self._ahead[-1] is not None and self._left is None and read < whole_seconds * rate):
            self._ahead.append(frame := await self._next_made())
            read += 0 if frame is None else len(frame.samples)
        return None if self._left is None else resampled_length(read + self._left, rate, self._plan.encoded_rate)

    @property
    def _left(self) -> int | None:
        return self._playback.samples_left

    def _opened_encoder(self, total_samples: int | None) -> Encoder:
        plan = self._plan
        return open_encoder(
            plan.audio_format,
            plan.traits.sample_rate,
            sample_rate=plan.audio_rate,
            total_samples=total_samples,
            continues=self._resume.position is not None,
        )

    @property
    def _event_samples(self) -> int:
        """The most samples of the model that are encoded for one event."""
        rate, encoded = self._plan.traits.sample_rate, self._plan.encoded_rate
        if rate == encoded:
            return MAX_EVENT_SAMPLES
        return max(1, MAX_RESAMPLED_EVENT_SAMPLES * rate // max(rate, encoded))

    async def _next_frame(self) -> Frame | None:
        return self._ahead.popleft() if self._ahead else await self._next_made()

    async def _next_made(self) -> Frame | None:
        with self.timing.stage("buffer" if self._given else "first_step"):
            return await self._playback.next_frame()

    def _chunks(self) -> AsyncGenerator[AudioChunk]:
        """The sound of the text. A client that reconnects to a fallback voice hears on with it."""
        plan, position = self._plan, self._resume.position
        if position is not None and position.fallback_from is not None:
            return self._fallback_from(position.fallback_from)
        return speak(
            plan.request,
            plan.traits,
            self._quality.checks(plan.traits).around(self._client),
            text=self._text,
            max_request_seconds=plan.max_request_seconds,
            store=None if plan.verifier else self._store(plan.model),  # what is kept was not heard
            loudness_lufs=plan.loudness_lufs,
        )

    def _fallback_from(self, piece: int) -> AsyncGenerator[AudioChunk]:
        """The text from a piece on by the fallback voice, at the same speed; of a script, only the words."""
        plan, other = self._plan, self._plan.fallback
        assert other is not None
        client = ReplicaClient(self._directory, other.model, self.timing)
        return speak(
            SpeechRequest((), other.voice, plan.request.speed, plan.request.seed),
            other.traits,
            self._quality.checks(other.traits).around(client),
            text=ForOneVoice(self._text, script=plan.traits.most_speakers > 1, phonemes=other.traits.phonemes),
            max_request_seconds=plan.max_request_seconds,
            first=piece,
            store=self._store(other.model),
            loudness_lufs=plan.loudness_lufs,
        )

    def _store(self, model: str) -> PieceStore:
        """The pieces of a model that are there already."""
        weights = self._directory.models[model].weights
        if job := JOB.get():
            if model != self._plan.model:  # the sound of a fallback voice counts for nobody
                return FinishedPieces(job.parts, model, weights)
            return FinishedPieces(job.parts, model, weights, self._ticket.record_made)
        return self._cache.of_model(model, weights)

    async def _beside_the_loop(self, work: Callable[..., bytes], *arguments: Samples) -> bytes:
        if FORMATS[self._plan.audio_format].instant:
            return work(*arguments)
        return await asyncio.to_thread(work, *arguments)

    def _slices(self, samples: Samples, most: int) -> list[Samples]:
        """A frame in parts of at most `most` samples. The beginning of a stream leaves before the rest of its chunk is
        encoded."""
        first, rate = 0, self._plan.traits.sample_rate
        instant = FORMATS[self._plan.audio_format].instant
        if not instant or rate != self._plan.encoded_rate:
            most = min(most, int(SLICE_SECONDS * rate))
        if not instant:
            first = int(FIRST_SLICE_SECONDS * rate) if self.timing.first_sound_seconds is None else 0
        borders = [0, *range(min(first, most), len(samples), max(1, most)), len(samples)]
        return [samples[a:b] for a, b in pairwise(borders) if a < b]

    def _follow(self, frame: Frame) -> None:
        """Notes the source of the samples that the encoder gets next."""
        for span in frame.spans:
            self._source_map.add(replace(span, start=self._given + span.start))
        self._given += len(frame.samples)

    def _note_reached(self, encoder: Encoder) -> None:
        """Notes which samples are in the bytes that leave next."""
        self._reached = encoder.reached
        self._passed = self._source_map.advance(self._reached)
        if self._words:
            self._words.passed(self._passed, self._reached)
        if self._given:
            self.timing.sounded()

    def _start_of(self, span: SourceSpan) -> PieceStart:
        start_seconds = round((span.start - self._resume.samples) / self._plan.traits.sample_rate, 3)
        piece = self._plan.piece_at(span.position)
        model, voice = self._plan.speaker_at(span.position)
        return PieceStart(span.position.piece, piece.text, piece.spoken, start_seconds, model, voice)

    def _resume_point(self, sent: int) -> ResumePoint:
        """Where a client that has the bytes so far goes on."""
        clean = self._trouble == (0, None) and self._quality.is_clean
        if self._resume.position is None and clean and self._is_repeatable:
            return ResumePoint(bytes=sent, samples=self._reached)
        position = self._source_map.position if self._given else self._resume.position
        assert position is not None  # there is no trouble before the first sound
        return ResumePoint(position=position)

    @property
    def _is_repeatable(self) -> bool:
        """Whether bytes that are made again can stand for those that were sent. A model that is not exact rounds a few
        samples differently, which changes all later bytes of a format with prediction."""
        return self._plan.traits.exact or FORMATS[self._plan.audio_format].instant

    @property
    def _trouble(self) -> tuple[int, int | None]:
        return self._playback.report.concealments, self._playback.report.fallback_piece


def _started_before(position: SourcePosition | None) -> tuple[int, int | None] | None:
    """The piece that a client has the start of at a position, and where its fallback voice began."""
    return None if position is None or position.sample == 0 else (position.piece, position.fallback_from)


class AwaitedText:
    """Wraps a text: while the stream waits for more of it, the ticket rests and late audio is not concealed.

    See `PieceSource`."""

    def __init__(self, text: PieceSource, playback: PlaybackBuffer, ticket: Ticket) -> None:
        self._text = text
        self._playback = playback
        self._ticket = ticket

    @property
    def pieces(self) -> Sequence[Piece]:
        """See `PieceSource`."""
        return self._text.pieces

    async def take(self, first: int, characters: float) -> tuple[Piece, ...]:
        """See `PieceSource`."""
        self._ticket.stop_waiting()
        with self._playback.pause():
            return await self._text.take(first, characters)

    def ends_at(self, number: int) -> bool:
        """See `PieceSource`."""
        return self._text.ends_at(number)
