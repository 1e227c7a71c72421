"""The revoicing graph: recognise -> speak -> mix, phrase by phrase, with the deployments of the other tasks.

    upload -> transcription graph -> HeardPhrases -> several speech calls, in order -> VoiceTrack -> mix -> parts
           -> separation graph (only if the background stays) -----------------------------------/

The transcript is read as fast as it comes, because it is only text. Phrases are spoken, and the background is separated, only
a little ahead of what the client has read.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field

from deployments.engines.protocols import AudioChunk, Samples
from deployments.errors import MotetError
from deployments.settings import RevoicingSettings
from deployments.tasks.engine_calls import forget, in_order_ahead
from deployments.tasks.phrase_fitting import PhraseFitter
from deployments.tasks.phrases import Phrase, PhraseCutter, with_speakers_found
from deployments.tasks.piece_checks import PieceChecks
from deployments.tasks.revoicing import (
    RevoicedPart,
    VoiceTrack,
    no_speech,
    revoice,
    sound_of_phrase,
)
from deployments.tasks.separation import Merged, SeparationTask
from deployments.tasks.speech import speak
from deployments.tasks.transcription import TranscriptionTask, TranscriptWindow
from deployments.tasks.voice_language import ensure_speaks
from deployments.text.sources import WholeText
from serve_app.gateway.recording import ATTEMPTS, WORTH_A_RETRY
from serve_app.gateway.request_context import current_request
from serve_app.gateway.request_timing import Recorder, RequestTiming
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.routing.directory import ModelDirectory
from serve_app.gateway.speech.fields import SpeechFields
from serve_app.gateway.speech.pacing import ListenerClock
from serve_app.gateway.speech.piece_cache import PieceCache
from serve_app.gateway.speech.plan import SpeechPlan
from serve_app.gateway.speech.planner import SpeechPlanner
from serve_app.gateway.speech.replica_client import ReplicaClient


@dataclass(frozen=True, slots=True)
class RevoicingPlan:
    """What the gateway decided for one request: who hears, who speaks how, and who tells speech from its background. Without
    a `separator` the background is dropped. `language` is that of the new speech, None if it has to be detected. Phrases of
    the `speakers` have voices of their own."""

    recognizer: str
    hearing: TranscriptionTask
    speech: SpeechPlan
    speech_fields: SpeechFields
    max_speed: float
    language: str | None
    separator: str | None = None
    cutting: SeparationTask | None = None
    speakers: Mapping[str, SpeechPlan] = field(default_factory=dict)

    def speech_of(self, speaker: str | None) -> SpeechPlan:
        """How a speaker's phrases are spoken."""
        return self.speakers.get(speaker, self.speech) if speaker else self.speech

    def ensure_speaks(self, language: str | None) -> None:
        """Raises `MotetError` (unsupported) if one of the voices does not speak a language."""
        for speech in (self.speech, *self.speakers.values()):
            ensure_speaks(speech.model, speech.traits, speech.request.voice, language)


@dataclass(frozen=True, slots=True)
class RevoicingInputs:
    """How a recording reaches the other graphs. `admit` takes a place in a model's queue, with the most seconds of audio that
    are queued at once. `transcribed` and `separated` begin to read the recording; the latter takes whether its next part is
    needed once another model has answered."""

    admit: Callable[[str, float], Ticket]
    transcribed: Callable[[Ticket], AsyncGenerator[TranscriptWindow]]
    separated: Callable[[Ticket, Callable[[], bool]], AsyncGenerator[Merged]]


class HeardPhrases:
    """The phrases of a recording, read in a task of its own. Only their text is held: hours have less than a megabyte. So the
    recogniser never waits for the voice, nor a session of an audio helper for the client. With `speakers`, which are only
    known at the end, the first phrase comes then."""

    def __init__(self, windows: AsyncGenerator[TranscriptWindow], cutter: PhraseCutter, *, speakers: bool) -> None:
        self._windows = windows
        self._speakers = speakers
        self._cutter = cutter
        self._found: asyncio.Queue[Phrase | None] = asyncio.Queue()
        self._returned = deque[Phrase]()
        self._reading = asyncio.create_task(self._read())
        self._reading.add_done_callback(lambda _: self._found.put_nowait(None))
        self._reading.add_done_callback(forget)

    async def take(self) -> Phrase | None:
        """The next phrase; None after the last. Raises what the recogniser raises."""
        if self._returned:
            return self._returned.popleft()
        phrase = await self._found.get()
        if phrase is None:
            await self._reading
        return phrase

    async def first(self) -> Phrase:
        """The first phrase, which `take` gives once more. Raises `MotetError` (invalid) if there is none."""
        phrase = await self.take()
        if phrase is None:
            raise no_speech()
        self._returned.append(phrase)
        return phrase

    async def close(self) -> None:
        """Ends the recognition."""
        self._reading.cancel()
        await asyncio.wait({self._reading})

    async def _read(self) -> None:
        async with aclosing(self._windows) as windows:
            if self._speakers:
                everything = [window async for window in windows]
                self._put(await asyncio.to_thread(lambda: self._cutter.push(with_speakers_found(everything))))
            else:
                async for window in windows:
                    self._put(self._cutter.push(window))
        self._put(self._cutter.finish())

    def _put(self, phrases: list[Phrase]) -> None:
        for phrase in phrases:
            self._found.put_nowait(phrase)


class Revoicing:
    """One recording on its way to another voice. It frees everything that it holds when `parts` ends or is closed."""

    def __init__(
        self,
        plan: RevoicingPlan,
        inputs: RevoicingInputs,
        planner: SpeechPlanner,
        settings: RevoicingSettings,
        directory: ModelDirectory,
        cache: PieceCache,
        recorder: Recorder,
    ) -> None:
        self.timing = RequestTiming()
        self.placement: str | None = None
        """The placement that speaks."""
        self._plan = plan
        self._inputs = inputs
        self._planner = planner
        self._settings = settings
        self._directory = directory
        self._cache = cache
        self._recorder = recorder
        self._cutter = PhraseCutter(settings)
        self._speaking = False
        self._listener = ListenerClock()
        self._checks = PieceChecks(planner.settings.quality, plan.speech.traits, beside=asyncio.to_thread)

    @property
    def recording_s(self) -> float:
        """How much of the recording was heard, and its length in the end."""
        return self._cutter.recording_s

    @property
    def buffered_seconds(self) -> float:
        """Sound that the client has not played yet: with more of it, phrases let streams go first that have less."""
        return self._listener.buffered_seconds(time.monotonic())

    async def parts(self) -> AsyncGenerator[RevoicedPart]:
        """The new sound, in order. Raises `MotetError`: (invalid, `no_speech`) if nobody speaks, (unsupported) if the voice
        does not speak the language, (overloaded), and what the three graphs raise."""
        plan, speech = self._plan, self._plan.speech
        with ExitStack() as held:
            held.callback(self._recorder.pieces_checked, speech.model, self._checks.found)
            heard = self._admitted(plan.recognizer, held)
            behind = self._admitted(plan.separator, held) if plan.separator else None
            voice = self._admitted(speech.model, held, self._settings.phrases_in_flight * self._settings.max_phrase_s)
            async with self._heard(heard) as phrases:
                first = await phrases.first()
                plan.ensure_speaks(plan.language or first.language)
                merged = self._inputs.separated(behind, lambda: self._speaking) if behind else None
                async with aclosing(self._revoiced(phrases, voice, merged)) as parts:
                    async for part in parts:
                        current_request().note_first_result()
                        self._listener.send(part.seconds, time.monotonic())
                        yield part

    def _admitted(self, model: str, held: ExitStack, reach: float = math.inf) -> Ticket:
        """A place in a model's queue, which does not wait for anything yet. Raises `MotetError` (overloaded)."""
        ticket = self._inputs.admit(model, reach)
        held.callback(ticket.close)
        ticket.stop_waiting()
        return ticket

    @asynccontextmanager
    async def _heard(self, ticket: Ticket) -> AsyncIterator[HeardPhrases]:
        phrases = HeardPhrases(self._inputs.transcribed(ticket), self._cutter, speakers=bool(self._plan.speakers))
        try:
            yield phrases
        finally:
            await phrases.close()

    def _revoiced(
        self, phrases: HeardPhrases, ticket: Ticket, merged: AsyncGenerator[Merged] | None
    ) -> AsyncGenerator[RevoicedPart]:
        settings = self._settings

        def start(phrase: Phrase, answered: Callable[[], None]) -> asyncio.Task[Samples]:
            call = asyncio.create_task(self._spoken(phrase, ticket))
            call.add_done_callback(lambda _: answered())
            call.add_done_callback(forget)
            return call

        track = VoiceTrack(
            PhraseFitter(self._plan.max_speed, settings.min_gap_s),
            self._plan.speech.traits.sample_rate,
            lambda: self.recording_s,
            asyncio.to_thread,
        )
        calls = in_order_ahead(phrases.take, start, lambda: settings.phrases_in_flight)
        return revoice(calls, self._awaited, track, merged)

    async def _awaited(self, call: asyncio.Task[Samples]) -> Samples:
        """The sound of a phrase. While it is made, nothing is read of the background, whose session must not end."""
        self._speaking = True
        try:
            return await call
        finally:
            self._speaking = False

    async def _spoken(self, phrase: Phrase, ticket: Ticket) -> Samples:
        """The sound of a phrase. It is made once more if a replica was lost while it spoke."""
        for attempt in range(ATTEMPTS):
            client = ReplicaClient(self._directory, self._plan.speech.model, self.timing, ticket, self)
            try:
                sound = await sound_of_phrase(self._chunks(phrase, client), self._plan.speech.traits.sample_rate)
                self.placement = client.placement or self.placement
                return sound
            except MotetError as error:
                if attempt + 1 == ATTEMPTS or error.failure.kind not in WORTH_A_RETRY:
                    raise
        raise AssertionError("the last attempt answers or raises")

    async def _chunks(self, phrase: Phrase, client: ReplicaClient) -> AsyncGenerator[AudioChunk]:
        plan = self._plan.speech_of(phrase.speaker)
        found = await self._planner.read_document(self._plan.speech_fields, plan, phrase.text)
        chunks = speak(
            plan.request,
            plan.traits,
            self._checks.around(client),
            text=WholeText(found.pieces),
            max_request_seconds=plan.max_request_seconds,
            store=self._cache.of_model(plan.model, self._directory.models[plan.model].weights),
            loudness_lufs=plan.loudness_lufs,
        )
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
