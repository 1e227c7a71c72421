"""The revoicing graph: recognise -> speak -> mix, phrase by phrase, with the deployments of the other tasks.

    upload -> transcription graph -> HeardPhrases -> several speech calls, in order -> VoiceTrack -> mix -> parts
           -> separation graph (only if the background stays) -----------------------------------/

The transcript is read as fast as it comes, because it is only text. Phrases are spoken, and the background is separated, only
a little ahead of what the client has read.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

from starlette.datastructures import Headers

from deployments.audio.stated_length import estimated_seconds
from deployments.engines.protocols import AudioChunk, RecognitionTraits, Samples, SeparationTraits
from deployments.engines.recognition import check_options
from deployments.errors import MotetError, quoted
from deployments.tasks.engine_calls import forget, in_order_ahead
from deployments.tasks.phrase_fitting import PhraseFitter
from deployments.tasks.phrases import Phrase, PhraseCutter
from deployments.tasks.piece_checks import PieceChecks
from deployments.tasks.revoicing import (
    RevoicedPart,
    VoiceTrack,
    ensure_leaves_background,
    no_speech,
    revoice,
    sound_of_phrase,
)
from deployments.tasks.separation import Merged, SeparationTask
from deployments.tasks.speech import speak
from deployments.tasks.transcription import TranscriptionTask, TranscriptWindow, task_for
from deployments.tasks.voice_language import ensure_speaks
from deployments.text.sources import WholeText
from serve_app.gateway.bodies.uploads import Upload
from serve_app.gateway.recording import ATTEMPTS, WORTH_A_RETRY
from serve_app.gateway.request_context import current_request
from serve_app.gateway.request_timing import RequestTiming
from serve_app.gateway.revoice_fields import RevoiceFields
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.service import Service
from serve_app.gateway.speech.fields import SpeechFields
from serve_app.gateway.speech.pacing import ListenerClock
from serve_app.gateway.speech.plan import SpeechPlan
from serve_app.gateway.speech.replica_client import ReplicaClient


@dataclass(frozen=True, slots=True)
class RevoicingPlan:
    """What the gateway decided for one request: who hears, who speaks how, and who tells speech from its background. Without
    a `separator` the background is dropped. `language` is that of the new speech, None if it has to be detected."""

    recognizer: str
    hearing: TranscriptionTask
    speech: SpeechPlan
    speech_fields: SpeechFields
    max_speed: float
    language: str | None
    separator: str | None = None
    cutting: SeparationTask | None = None


async def plan_revoicing(fields: RevoiceFields, service: Service, file: Upload, owner: str) -> RevoicingPlan:
    """The plan for a recording. `owner` names whose uploaded voices it may use. Raises `MotetError`: (not_found) for an
    unknown model or voice, (unsupported) for what a model cannot do."""
    directory = service.directory
    with _naming("transcription_model"):
        recognizer = _model(service, fields.transcription_model, "transcription")
        hearing: RecognitionTraits = await directory.traits(recognizer)
        options = fields.options(hearing)
        check_options(options, hearing, f"The model {quoted(recognizer)}")
    separator = cutting = None
    if fields.background == "keep":
        with _naming("separation_model"):
            separator = _model(service, fields.separation_model, "separation")
            able: SeparationTraits = await directory.traits(separator)
            ensure_leaves_background(separator, able)
        cut = service.settings.separation
        cutting = SeparationTask(able.sample_rates, cut.chunk_s, cut.overlap_s, size_bytes=file.size)
    speech_fields = fields.speech(_model(service, fields.model, "speech"))
    speech, _ = await service.planner.plan_arriving(speech_fields, owner)
    current_request().ignore(speech.ignored)
    ensure_speaks(speech.model, speech.traits, speech.request.voice, fields.known_language)
    return RevoicingPlan(
        recognizer,
        replace(
            task_for(hearing, options), size_bytes=file.size, first_window_s=service.settings.windows.first_window_s
        ),
        speech,
        speech_fields,
        fields.max_speed or service.settings.revoicing.max_speed,
        "en" if fields.translate else None,
        separator,
        cutting,
    )


def _model(service: Service, wanted: str | None, task: str) -> str:
    """The wanted model, or the first for the task. Raises `MotetError` (not_found; unavailable if it is frozen)."""
    name = service.directory.resolve(wanted or service.directory.first(task), task)
    service.directory.ensure_not_frozen(name)
    return name


@contextmanager
def _naming(param: str) -> Iterator[None]:
    """Errors about a `model` name the field of this request that the model came from."""
    try:
        yield
    except MotetError as error:
        if error.failure.param != "model":
            raise
        raise MotetError(replace(error.failure, param=param)) from error


class HeardPhrases:
    """The phrases of a recording, read in a task of its own. Only their text is held: hours have less than a megabyte. So the
    recogniser never waits for the voice, nor a session of an audio helper for the client."""

    def __init__(self, windows: AsyncGenerator[TranscriptWindow], cutter: PhraseCutter) -> None:
        self._windows = windows
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
            async for window in windows:
                self._put(self._cutter.push(window))
        self._put(self._cutter.finish())

    def _put(self, phrases: list[Phrase]) -> None:
        for phrase in phrases:
            self._found.put_nowait(phrase)


class Revoicing:
    """One recording on its way to another voice. It frees everything that it holds when `parts` ends or is closed."""

    def __init__(self, plan: RevoicingPlan, service: Service, file: Upload, headers: Headers) -> None:
        self.timing = RequestTiming()
        self.placement: str | None = None
        """The placement that speaks."""
        self.recording_s = 0.0
        """The recording's length, once all of it was heard."""
        self._plan = plan
        self._service = service
        self._file = file
        self._headers = headers
        self._speaking = False
        self._listener = ListenerClock()
        self._checks = PieceChecks(service.settings.speech.quality, plan.speech.traits, beside=asyncio.to_thread)

    async def parts(self) -> AsyncGenerator[RevoicedPart]:
        """The new sound, in order. Raises `MotetError`: (invalid, `no_speech`) if nobody speaks, (unsupported) if the voice
        does not speak the language, (overloaded), and what the three graphs raise."""
        plan, service = self._plan, self._service
        with ExitStack() as held:
            held.callback(service.recorder.pieces_checked, plan.speech.model, self._checks.found)
            heard = self._admitted(plan.recognizer, held)
            behind = self._admitted(plan.separator, held) if plan.separator else None
            voice = self._admitted(plan.speech.model, held, self._speech_ahead_s)
            cutter = PhraseCutter(service.settings.revoicing)
            async with self._heard(heard, cutter) as phrases:
                first = await phrases.first()
                ensure_speaks(
                    plan.speech.model, plan.speech.traits, plan.speech.request.voice, plan.language or first.language
                )
                merged = self._separated(behind) if behind else None
                async with aclosing(self._revoiced(phrases, voice, merged, cutter)) as parts:
                    async for part in parts:
                        current_request().note_first_result()
                        self._listener.send(part.seconds, time.monotonic())
                        yield part
            self.recording_s = cutter.recording_s

    @property
    def buffered_seconds(self) -> float:
        """Sound that the client has not played yet: with more of it, phrases let streams go first that have less."""
        return self._listener.buffered_seconds(time.monotonic())

    @property
    def _speech_ahead_s(self) -> float:
        """The most speech that is queued for the request at once."""
        settings = self._service.settings
        return settings.revoicing.phrases_in_flight * settings.revoicing.max_phrase_s

    def _admitted(self, model: str, held: ExitStack, reach: float | None = None) -> Ticket:
        """A place in a model's queue, which does not wait for anything yet. Raises `MotetError` (overloaded)."""
        seconds = estimated_seconds(self._file.head, self._file.likely_size)
        bound = {} if reach is None else {"reach": reach}
        ticket = self._service.admit(model, self._headers, seconds, **bound)
        held.callback(ticket.close)
        ticket.stop_waiting()
        return ticket

    @asynccontextmanager
    async def _heard(self, ticket: Ticket, cutter: PhraseCutter) -> AsyncIterator[HeardPhrases]:
        plan, service = self._plan, self._service
        assert service.transcripts is not None, "a model transcribes"
        upload = self._file.blocks(service.settings.recordings.block_bytes)
        windows = service.transcripts.run(upload, plan.hearing, service.directory, ticket, plan.recognizer)
        phrases = HeardPhrases(windows, cutter)
        try:
            yield phrases
        finally:
            await phrases.close()

    def _separated(self, ticket: Ticket) -> AsyncGenerator[Merged]:
        plan, service = self._plan, self._service
        assert service.separations is not None and plan.separator and plan.cutting, "a model separates"
        upload = self._file.blocks(service.settings.recordings.block_bytes)
        return service.separations.run(
            upload, plan.cutting, service.directory, ticket, plan.separator, lambda: self._speaking
        )

    def _revoiced(
        self, phrases: HeardPhrases, ticket: Ticket, merged: AsyncGenerator[Merged] | None, cutter: PhraseCutter
    ) -> AsyncGenerator[RevoicedPart]:
        settings, traits = self._service.settings.revoicing, self._plan.speech.traits

        def start(phrase: Phrase, answered: Callable[[], None]) -> asyncio.Task[Samples]:
            call = asyncio.create_task(self._spoken(phrase, ticket))
            call.add_done_callback(lambda _: answered())
            call.add_done_callback(forget)
            return call

        track = VoiceTrack(
            PhraseFitter(self._plan.max_speed, settings.min_gap_s),
            traits.sample_rate,
            lambda: cutter.recording_s,
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
            client = ReplicaClient(self._service.directory, self._plan.speech.model, self.timing, ticket, self)
            try:
                sound = await sound_of_phrase(self._chunks(phrase, client), self._plan.speech.traits.sample_rate)
                self.placement = client.placement or self.placement
                return sound
            except MotetError as error:
                if attempt + 1 == ATTEMPTS or error.failure.kind not in WORTH_A_RETRY:
                    raise
        raise AssertionError("the last attempt answers or raises")

    async def _chunks(self, phrase: Phrase, client: ReplicaClient) -> AsyncGenerator[AudioChunk]:
        plan, service = self._plan.speech, self._service
        found = await service.planner.read_document(self._plan.speech_fields, plan, phrase.text)
        chunks = speak(
            plan.request,
            plan.traits,
            self._checks.around(client),
            text=WholeText(found.pieces),
            max_request_seconds=plan.max_request_seconds,
            store=service.cache.of_model(plan.model),
            loudness_lufs=plan.loudness_lufs,
        )
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
