"""One speech request from its pieces to its bytes: asked for, buffered, paced, encoded, timed."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from deployments.audio.encode import FORMATS, AudioFormat, open_encoder
from deployments.engines.protocols import AudioChunk, FinishReason, Samples, SpeechRequest, SpeechTraits
from deployments.errors import fail
from deployments.replica.wire import unpack
from deployments.tasks.speech import SpeechTask, no_sound, nothing_to_say, speak
from deployments.text.sources import PieceSource
from deployments.text.speakers import without_marks
from serve_app.gateway.request_timing import Recorder, Timeline
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.routing.directory import ModelDirectory
from serve_app.gateway.settings import PacingSettings
from serve_app.gateway.speech.piece_cache import PieceCache, stream_key
from serve_app.gateway.speech.playback import Frame, PacedSpeech
from serve_app.gateway.speech.source_map import SourceMap, SourcePosition, Span
from serve_app.gateway.sse import event

FIRST_SLICE_SECONDS = 0.3
SLICE_SECONDS = 2.0
"""How much sound is encoded at once, and how much the first bytes need: hibari begins with a quarter of a second of
silence, which alone helps nobody."""

MOST_DIGITS = 18
"""Of a number in an event's id: more is nobody's."""
_NUMBER = rf"(\d{{1,{MOST_DIGITS}}})"
_IN_BYTES = re.compile(rf"{_NUMBER}b{_NUMBER}", re.ASCII)
_IN_SPEECH = re.compile(rf"(?:{_NUMBER}f)?{_NUMBER}\.{_NUMBER}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Fallback:
    """Who takes over from a model that is late: another one, with one voice of its own."""

    model: str
    voice: str
    traits: SpeechTraits


@dataclass(frozen=True, slots=True)
class SpeechPlan:
    """What is spoken by whom, how it is sent, and who takes over when the model is late."""

    model: str
    task: SpeechTask
    traits: SpeechTraits
    audio_format: AudioFormat
    pacing: PacingSettings
    text: PieceSource
    played: bool
    request_seconds_of_audio: float
    fallback: Fallback | None

    def piece_at(self, place: SourcePosition) -> str:
        """The piece of the text as who speaks at a place reads it; a fallback voice reads the words of a script alone."""
        piece = self.text.pieces[place.piece]
        whole = place.fallback_from is None or self.traits.most_speakers == 1
        return piece if whole else without_marks((piece,))[0]

    def speaker_at(self, place: SourcePosition) -> tuple[str, str]:
        """The model and the voice that speak at a place."""
        if place.fallback_from is None or self.fallback is None:
            return self.model, self.task.voice
        return self.fallback.model, self.fallback.voice

    @property
    def key(self) -> str:
        """A name of the stream's bytes: equal for equal requests."""
        task = self.task
        manner = [task.voice, task.speed, task.seed, task.instructions]
        return stream_key([self.model, *manner, self.audio_format, *task.pieces])


@dataclass(frozen=True, slots=True)
class Begun:
    """A piece of the text whose sound begins, `start_seconds` into the stream, and who says it."""

    index: int
    text: str
    start_seconds: float
    model: str
    voice: str


@dataclass(frozen=True, slots=True)
class Heard:
    """What a client has that comes back: so many `bytes` of a stream that went as it should, with so many of its `samples`
    in them, which is made again and cut there; or, of one with gaps or another voice in it, which nobody makes again, the
    speech up to a `place`."""

    bytes: int = 0
    samples: int = 0
    place: SourcePosition | None = None


NOTHING_HEARD = Heard()


class SpeechStream:
    """The bytes or events of one request. Everything it holds is freed when its generator ends or is closed."""

    def __init__(
        self,
        plan: SpeechPlan,
        directory: ModelDirectory,
        cache: PieceCache,
        ticket: Ticket,
        recorder: Recorder,
        heard: Heard = NOTHING_HEARD,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.timeline = Timeline()
        self.placement: str | None = None
        """Where the sound is made. None as long as all of it was kept from an earlier request."""
        self._plan = plan
        self._directory = directory
        self._cache = cache
        self._ticket = ticket
        self._recorder = recorder
        self._heard = heard
        self._course = SourceMap()
        self._given = self._reached = 0
        self._passed: list[Span] = []
        self._told = _begun_before(heard.place)
        self._paced = PacedSpeech(
            plan.traits.sample_rate,
            plan.pacing,
            played=plan.played,
            heard_samples=heard.samples,
            fallback=self._fallback_from if plan.fallback else None,
            clock=clock,
        )
        self._told_trouble = self._trouble
        self._text = _AwaitedText(plan.text, self._paced, ticket)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the first piece that did not end by itself was ended; None as long as that may still change."""
        report = self._paced.report
        return report.finish_reason if report.all_made or report.finish_reason != "stop" else None

    async def encoded(self) -> AsyncGenerator[bytes]:
        """One muxer for the whole stream. Encoding that takes time happens beside the event loop."""
        continues = self._heard.place is not None
        encoder = open_encoder(self._plan.audio_format, self._plan.traits.sample_rate, continues=continues)
        instant = FORMATS[self._plan.audio_format].instant
        try:
            async with aclosing(self._frames()) as frames:
                async for frame in frames:
                    self._follow(frame)
                    for samples in [frame.samples] if instant else self._slices(frame.samples):
                        with self.timeline.stage("encode"):
                            data = (
                                encoder.encode(samples) if instant else await asyncio.to_thread(encoder.encode, samples)
                            )
                        if data:
                            self._reach(encoder.reached)
                            self.timeline.sounded()
                            with self.timeline.stage("write"):
                                yield data
            if data := encoder.finish() if instant else await asyncio.to_thread(encoder.finish):
                self._reach(encoder.reached)
                if self._given:  # a codec may keep all of a short sound back until its end
                    self.timeline.sounded()
                yield data
            self._ticket.complete()
        finally:
            encoder.close()
            self._ticket.close()
            self.timeline.record(self._plan.model, self._paced.report, self._recorder)

    def _follow(self, frame: Frame) -> None:
        """Where in the speech the samples come from that the encoder gets next."""
        for stretch in frame.stretches:
            self._course.add(replace(stretch, start=self._given + stretch.start))
        self._given += len(frame.samples)

    def _reach(self, sample: int) -> None:
        """So far are the samples in the bytes that come next."""
        self._reached = sample
        self._passed = self._course.go(sample)

    def _slices(self, samples: Samples) -> list[Samples]:
        """A frame in parts, so that the beginning of a stream leaves before the rest of its chunk is encoded."""
        rate = self._plan.traits.sample_rate
        first = int(FIRST_SLICE_SECONDS * rate) if self.timeline.first_sound_seconds is None else 0
        borders = [0, *range(first, len(samples), int(SLICE_SECONDS * rate)), len(samples)]
        return [samples[a:b] for a, b in pairwise(borders) if a < b]

    async def events(self) -> AsyncGenerator[bytes]:
        """Server-sent events; those with sound have an id, and leave out what was heard before."""
        sent, key = 0, self._plan.key  # as long to work out as the text is long
        async with aclosing(self.encoded()) as encoded:
            async for data in encoded:
                new, begun = data[max(0, self._heard.bytes - sent) :], self.newly_begun()
                sent += len(data)
                if new:
                    yield event(_delta(new, begun), f"{key}-{self._place_after(sent)}")
                if trouble := self.new_trouble():
                    yield event(trouble)
        yield event({"type": "speech.audio.done", **self.done()})

    def newly_begun(self) -> list[Begun]:
        """The pieces of the text that begin in the bytes that came last, but for those that this client heard begin. It is
        asked after all bytes, also those that are not sent."""
        return [self._begun(stretch) for stretch in self._passed if self._is_new(stretch)]

    @property
    def piece_is_over(self) -> bool:
        """Whether all sound of a piece of the text is in the bytes so far. Not known where a codec holds sound back: then
        only the next piece tells."""
        return self._given > 0 and self._paced.ends_at(self._course.here)

    def _is_new(self, stretch: Span) -> bool:
        """Whether a piece, or another voice's saying of it, begins in what this client gets."""
        if self._told == (named := (stretch.place.piece, stretch.place.fallback_from)):
            return False
        self._told = named
        return stretch.start >= self._heard.samples

    def _begun(self, stretch: Span) -> Begun:
        start_seconds = round((stretch.start - self._heard.samples) / self._plan.traits.sample_rate, 3)
        text = self._plan.piece_at(stretch.place)
        return Begun(stretch.place.piece, text, start_seconds, *self._plan.speaker_at(stretch.place))

    def _place_after(self, sent: int) -> str:
        """What an event's id says of how far its client is; `heard_by` reads it."""
        if self._heard.place is None and self._trouble == (0, None) and self._made_alike:
            return f"{sent}b{self._reached}"
        place = self._course.here if self._given else self._heard.place
        assert place is not None  # there is no trouble before the first sound
        voice = "" if place.fallback_from is None else f"{place.fallback_from}f"
        return f"{voice}{place.piece}.{place.sample}"

    @property
    def _made_alike(self) -> bool:
        """Whether bytes that are made again can stand for those that were sent: where a sample that is rounded otherwise
        changes no other byte."""
        return self._plan.traits.exact or FORMATS[self._plan.audio_format].instant

    def done(self) -> dict[str, object]:
        """What is told at the end. `finish_reason` is "stop", or why the model was stopped in a piece of the text ("length",
        ...)."""
        return {
            "usage": self._usage(),
            "timing": self.timeline.milliseconds(),
            "finish_reason": self._paced.report.finish_reason,
        }

    @property
    def _trouble(self) -> tuple[int, int | None]:
        """What a listener is told of: gaps, and another voice."""
        return self._paced.report.concealments, self._paced.report.fallback_piece

    def new_trouble(self) -> dict[str, object] | None:
        """What a listener is to be told of gaps and another voice since it was asked last; None when nothing happened."""
        if self._told_trouble == self._trouble:
            return None
        self._told_trouble, report = self._trouble, self._paced.report
        seconds = round(report.concealed_seconds, 3)
        return {
            "type": "speech.audio.concealed",
            "concealed_seconds": seconds,
            "fallback": report.fallback,
            "fallback_piece": report.fallback_piece,
        }

    async def _frames(self) -> AsyncGenerator[Frame]:
        chunks = self._chunks(self._heard.place)
        async with aclosing(self._paced.frames(self._noticed(chunks), self._heard.place)) as frames:
            waiting = "first_step"
            while True:
                with self.timeline.stage("first_step" if waiting == "first_step" else "buffer"):
                    frame = await anext(frames, None)
                if frame is None:
                    break
                waiting = "buffer"
                yield frame
        if self._paced.report.sent_seconds == 0 and self._heard.place is None:
            raise no_sound(self._paced.report.finish_reason) if self._text.pieces else nothing_to_say()

    def _chunks(self, heard: SourcePosition | None) -> AsyncGenerator[AudioChunk]:
        """The sound of the text by who is to speak it. A client that comes back to another voice hears on with it."""
        plan = self._plan
        if heard is not None and heard.fallback_from is not None:
            return self._fallback_from(heard.fallback_from)
        call = self._cache.through(plan.model, self._ask)
        return speak(plan.task, self._text, plan.traits, call, plan.request_seconds_of_audio)

    async def _noticed(self, chunks: AsyncGenerator[AudioChunk]) -> AsyncGenerator[AudioChunk]:
        """The same; admission learns that this stream has what it waited for, wherever it came from."""
        async with aclosing(chunks):
            async for chunk in chunks:
                self._ticket.rests()
                yield chunk

    async def _ask(self, request: SpeechRequest) -> AsyncGenerator[AudioChunk]:
        """One request to a replica, with how long the listener's sound lasts. What it makes is told to admission."""
        urgent = replace(request, lasts_seconds=self._paced.lasts_seconds)
        async with aclosing(self._spoken(self._plan.model, urgent, self._ticket)) as chunks:
            while True:
                self._ticket.wants()
                chunk = await anext(chunks, None)
                if chunk is None:
                    return
                self.placement = self._ticket.placement
                self._ticket.made(chunk.seconds / self._plan.task.speed * request.speed)
                yield chunk

    async def _spoken(
        self, model: str, request: SpeechRequest, ticket: Ticket | None = None
    ) -> AsyncGenerator[AudioChunk]:
        async with aclosing(self._directory.stream(model, "speak", request, ticket=ticket)) as packed:
            async for chunk in packed:
                self.timeline.add("queue", chunk.waited_s)
                self.timeline.add("infer", chunk.step_s)
                yield unpack(chunk)

    def _fallback_from(self, piece: int) -> AsyncGenerator[AudioChunk]:
        """The text from a piece on by the fallback model, as fast; of a script the words alone, by its one voice."""
        plan, other = self._plan, self._plan.fallback
        assert other is not None
        text = _Unmarked(self._text) if plan.traits.most_speakers > 1 else self._text
        task = SpeechTask((), other.voice, plan.task.speed, plan.task.seed)
        call = self._cache.through(other.model, partial(self._spoken, other.model))
        return speak(task, text, other.traits, call, plan.request_seconds_of_audio, piece)

    def _usage(self) -> dict[str, object]:
        """OpenAI's shape. Models here have no tokens: a character counts as one in, a tenth of a second as one out. In is the
        whole text, out the sound of this answer."""
        heard_seconds = self._heard.samples / self._plan.traits.sample_rate
        seconds = max(0.0, self._paced.report.sent_seconds - heard_seconds)
        characters, tenths = sum(map(len, self._text.pieces)), round(seconds * 10)
        return {
            "input_tokens": characters,
            "output_tokens": tenths,
            "total_tokens": characters + tenths,
            "audio_seconds": round(seconds, 3),
        }


def _delta(data: bytes, begun: Sequence[Begun]) -> dict[str, object]:
    """Some bytes of sound, and the pieces of the text that begin in it."""
    delta: dict[str, object] = {"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()}
    pieces = [{"index": piece.index, "text": piece.text, "start_seconds": piece.start_seconds} for piece in begun]
    return delta | ({"pieces": pieces} if pieces else {})


def _begun_before(place: SourcePosition | None) -> tuple[int, int | None] | None:
    """Which piece, in whose voice, began before a place; None at the very beginning of one."""
    return None if place is None or place.sample == 0 else (place.piece, place.fallback_from)


class _AwaitedText:
    """A text for which no engine owes any sound while it has to be waited for."""

    def __init__(self, text: PieceSource, paced: PacedSpeech, ticket: Ticket) -> None:
        self._text = text
        self._paced = paced
        self._ticket = ticket

    @property
    def pieces(self) -> Sequence[str]:
        """See `PieceSource`."""
        return self._text.pieces

    async def take(self, first: int, characters: float) -> tuple[str, ...]:
        """See `PieceSource`."""
        self._ticket.rests()
        with self._paced.pause():
            return await self._text.take(first, characters)

    def ends_at(self, number: int) -> bool:
        """See `PieceSource`."""
        return self._text.ends_at(number)


class _Unmarked:
    """A script's words alone."""

    def __init__(self, text: PieceSource) -> None:
        self._text = text

    @property
    def pieces(self) -> Sequence[str]:
        """See `PieceSource`."""
        return without_marks(self._text.pieces)

    async def take(self, first: int, characters: float) -> tuple[str, ...]:
        """See `PieceSource`."""
        return without_marks(await self._text.take(first, characters))

    def ends_at(self, number: int) -> bool:
        """See `PieceSource`."""
        return self._text.ends_at(number)


def heard_by(last_event_id: str | None, plan: SpeechPlan) -> Heard:
    """What the client has, by the id of the last event it got. Raises `MotetError` for another stream's id, or when the
    voice with which it would hear on does not answer."""
    if not last_event_id:
        return NOTHING_HEARD
    stream, _, where = last_event_id.partition("-")
    heard = _heard_in(where) if stream == plan.key else None
    if heard is None or not _lies_in(heard.place, plan):
        raise fail(
            "invalid",
            "Last-Event-ID does not belong to this request.",
            "Send the same request as before, or leave the header out to begin again.",
            param="Last-Event-ID",
            code="event_id_mismatch",
        )
    if heard.place is not None and heard.place.fallback_from is not None and plan.fallback is None:
        raise fail(
            "unavailable",
            "Another voice had taken over, and does not answer now.",
            "Try again in a moment, with the same pacing, or leave Last-Event-ID out to begin again.",
        )
    return heard


def _heard_in(where: str) -> Heard | None:
    if in_bytes := _IN_BYTES.fullmatch(where):
        return Heard(bytes=int(in_bytes[1]), samples=int(in_bytes[2]))
    if in_speech := _IN_SPEECH.fullmatch(where):
        first, piece, sample = in_speech.groups()
        return Heard(place=SourcePosition(int(piece), int(sample), None if first is None else int(first)))
    return None


def _lies_in(place: SourcePosition | None, plan: SpeechPlan) -> bool:
    return place is None or (place.fallback_from or 0) <= place.piece < len(plan.text.pieces)
