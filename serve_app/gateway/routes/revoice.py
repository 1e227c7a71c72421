"""POST /v1/audio/revoice: a recording in, the same words in another voice out, at the pauses of the recording."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace

from fastapi import APIRouter, Request
from starlette.datastructures import Headers
from starlette.responses import Response

from deployments.audio.encode import Encoder, open_encoder
from deployments.audio.formats import FORMATS
from deployments.audio.stated_length import estimated_seconds
from deployments.engines.protocols import RecognitionTraits, SeparationTraits
from deployments.engines.recognition import check_options
from deployments.errors import MotetError, quoted
from deployments.tasks.diarization import SpeakerTask
from deployments.tasks.revoicing import RevoicedPart, RevoicedPhrase, RevoicingSummary, ensure_leaves_background
from deployments.tasks.separation import Merged, SeparationTask
from deployments.tasks.transcription import TranscriptWindow, task_for
from serve_app.gateway.bodies.uploads import FormFields, Upload, UploadForm, answer_upload
from serve_app.gateway.description.operation import DescribedAnswer, FormBody, Operation, events_content, sounds
from serve_app.gateway.errors import ErrorEvent, validated
from serve_app.gateway.request_context import current_request
from serve_app.gateway.revoice_answers import RevoiceDelta, RevoiceDone, RevoicedPhraseEvent
from serve_app.gateway.revoice_fields import RevoiceFields
from serve_app.gateway.revoicing import Revoicing, RevoicingInputs, RevoicingPlan
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.service import Service, service_of
from serve_app.gateway.speech.fields import SpeechFields
from serve_app.gateway.speech.plan import SpeechPlan
from serve_app.gateway.sse import MAX_AUDIO_BYTES, event
from serve_app.gateway.streaming import event_stream, stream_of

router = APIRouter()

FORM = FormFields(needed=())

REVOICING = Operation(
    id="create_revoicing",
    tag="Revoicing",
    body=FormBody(RevoiceFields, FORM),
    answers=(
        DescribedAnswer(
            "The same words in another voice, streamed as they are spoken; with `stream_format: sse`, events.",
            (*sounds(FORMATS), events_content(RevoicedPhraseEvent | RevoiceDelta | RevoiceDone | ErrorEvent)),
            headers=("x-sample-rate", "x-motet-model", "x-motet-voice", "x-motet-placement", "server-timing"),
        ),
    ),
    errors=(404,),
    example={"voice": "alloy"},
    output="revoiced.wav",
)


@router.post("/v1/audio/revoice", openapi_extra=REVOICING.extra)
async def revoice(request: Request) -> Response:
    """Speaks the words of a recording with another voice."""
    service = service_of(request)
    return await answer_upload(request, FORM, lambda form: _revoiced(form, request, service), service.early)


async def _revoiced(form: UploadForm, request: Request, service: Service) -> Response:
    fields = validated(RevoiceFields, form.fields, strict=service.settings.strict)
    plan = await _plan(fields, service, form.file, service.owner(request.headers))
    inputs, settings = _inputs(plan, service, form.file, request.headers), service.settings.revoicing
    revoicing = Revoicing(plan, inputs, service.planner, settings, service.directory, service.cache, service.recorder)
    answer = _RevoicedAnswer(revoicing, fields)
    if fields.stream_format == "sse":
        response: Response = await event_stream(answer.events())
    else:
        response = await stream_of(answer.sound(), FORMATS[fields.response_format].media_type)
    response.headers.update(
        {
            "x-motet-model": plan.speech.model,
            "x-motet-voice": plan.speech.request.voice,
            "x-sample-rate": str(answer.sample_rate),
            "server-timing": answer.revoicing.timing.server_timing(),
        }
    )
    if placement := answer.revoicing.placement:
        response.headers["x-motet-placement"] = placement
    return response


async def _plan(fields: RevoiceFields, service: Service, file: Upload, owner: str) -> RevoicingPlan:
    """Who hears, speaks and separates. `owner` names whose uploaded voices may be used. Raises `MotetError`: (not_found) for
    an unknown model or voice, (unsupported) for what a model cannot do."""
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
        cutting = replace(SeparationTask.for_model(able, service.settings.separation), size_bytes=file.size)
    speech_fields = fields.speech(_model(service, fields.model, "speech"))
    speech, _ = await service.planner.plan_arriving(speech_fields, owner)
    current_request().ignore(speech.ignored)
    plan = RevoicingPlan(
        recognizer,
        replace(
            task_for(hearing, options),
            size_bytes=file.size,
            speakers=SpeakerTask() if fields.speaker_voices else None,
        ),
        speech,
        speech_fields,
        fields.max_speed or service.settings.revoicing.max_speed,
        "en" if fields.translate else None,
        separator,
        cutting,
        await _speakers(fields, speech_fields, service, owner),
    )
    plan.ensure_speaks(fields.known_language)
    return plan


async def _speakers(fields: RevoiceFields, speech: SpeechFields, service: Service, owner: str) -> dict[str, SpeechPlan]:
    """The voices of the speakers that the request names. Raises `MotetError` (not_found) for an unknown one."""
    plans: dict[str, SpeechPlan] = {}
    for speaker, voice in fields.speaker_voices.items():
        plans[speaker], _ = await service.planner.plan_arriving(speech.model_copy(update={"voice": voice}), owner)
    return plans


def _model(service: Service, wanted: str | None, task: str) -> str:
    """The wanted model, or the first for the task. Raises `MotetError` (not_found; unavailable if it is frozen)."""
    name = service.directory.resolve(wanted or service.directory.first(task), task)
    service.directory.ensure_answers_soon(name)
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


def _inputs(plan: RevoicingPlan, service: Service, file: Upload, headers: Headers) -> RevoicingInputs:
    """How the recording reaches the graphs of the other tasks."""
    block_bytes = service.settings.recordings.block_bytes

    def admit(model: str, reach: float) -> Ticket:
        return service.admit(model, headers, estimated_seconds(file.head, file.likely_size), reach)

    def transcribed(ticket: Ticket) -> AsyncGenerator[TranscriptWindow]:
        assert service.transcripts is not None, "a model transcribes"
        upload = file.blocks(block_bytes)
        return service.transcripts.run(upload, plan.hearing, service.directory, ticket, plan.recognizer)

    def separated(ticket: Ticket, needed: Callable[[], bool]) -> AsyncGenerator[Merged]:
        assert service.separations is not None and plan.separator and plan.cutting, "a model separates"
        upload = file.blocks(block_bytes)
        return service.separations.run(upload, plan.cutting, service.directory, ticket, plan.separator, needed)

    return RevoicingInputs(admit, transcribed, separated)


@dataclass(slots=True)
class _RevoicedAnswer:
    """The bytes of one answer, and what its last event says."""

    revoicing: Revoicing
    fields: RevoiceFields
    sample_rate: int = 0
    """Of the encoded sound, in Hz; known with the first bytes."""
    done: RevoicingSummary = field(default_factory=RevoicingSummary)
    _encoder: Encoder | None = field(default=None, repr=False)

    async def sound(self) -> AsyncGenerator[bytes]:
        """The encoded sound."""
        async with aclosing(self._encoded()) as parts:
            async for _, data in parts:
                if data:
                    yield data

    async def events(self) -> AsyncGenerator[bytes]:
        """The same as server-sent events: each phrase before the sound in which it begins."""
        async with aclosing(self._encoded()) as parts:
            async for phrases, data in parts:
                for phrase in phrases:
                    yield event({"type": "revoice.phrase", **_facts(phrase)})
                for start in range(0, len(data), MAX_AUDIO_BYTES):
                    text = base64.b64encode(data[start : start + MAX_AUDIO_BYTES]).decode()
                    yield event({"type": "revoice.audio.delta", "audio": text})
        yield event({"type": "revoice.audio.done", **self._summary()})

    async def _encoded(self) -> AsyncGenerator[tuple[tuple[RevoicedPhrase, ...], bytes]]:
        try:
            async with aclosing(self.revoicing.parts()) as parts:
                async for part in parts:
                    self._note(part)
                    encoder = self._open(part)
                    yield part.phrases, await asyncio.to_thread(encoder.encode, part.samples)
            if self._encoder:
                yield (), await asyncio.to_thread(self._encoder.finish)
        finally:
            if self._encoder:
                self._encoder.close()

    def _open(self, part: RevoicedPart) -> Encoder:
        if self._encoder is None:
            form, rate, channels = self.fields.response_format, part.sample_rate, len(part.samples)
            self._encoder = open_encoder(form, rate, channels, sample_rate=self.fields.sample_rate)
            self.sample_rate = self._encoder.sample_rate
        return self._encoder

    def _note(self, part: RevoicedPart) -> None:
        self.done.note(part)
        self.revoicing.timing.sounded()
        current_request().seconds_of_audio = round(self.done.seconds, 3)

    def _summary(self) -> dict[str, object]:
        done = self.done
        return {
            "duration": round(done.seconds, 3),
            "recording_duration": round(self.revoicing.recording_s, 3),
            "phrases": done.phrases,
            "unspoken_phrases": done.unspoken_phrases,
            "max_speed": round(done.max_speed, 3),
            "max_drift": round(done.max_drift_s, 3),
            "timing": self.revoicing.timing.milliseconds(),
        }


def _facts(phrase: RevoicedPhrase) -> dict[str, object]:
    """Seconds of the recording, and of the new sound."""
    heard, fit = phrase.phrase, phrase.fit
    return {
        "index": heard.index,
        **({"speaker": heard.speaker} if heard.speaker else {}),
        "text": heard.text,
        "start": round(heard.start_s, 3),
        "end": round(heard.end_s, 3),
        "spoken": phrase.spoken,
        "spoken_start": round(fit.start_s, 3),
        "spoken_end": round(fit.end_s, 3),
        "speed": round(fit.speed, 3),
        "drift": round(fit.drift_s, 3),
    }
