"""The sound of an answer, made while its text is written."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import Headers

from deployments.audio import g711
from deployments.audio.pcm import to_float, to_int16
from deployments.audio.resample import Resampler
from deployments.errors import fail
from deployments.tasks.speech import CHARACTERS_PER_SECOND
from deployments.text.segmentation import has_words
from deployments.text.sources import ArrivingText
from deployments.text.speakers import without_marks
from serve_app.gateway.live.response_fields import OutputFormat, ResponseSettings
from serve_app.gateway.live.spoken_text import SpokenPart, SpokenText
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.service import Service
from serve_app.gateway.speech.events import PieceStart
from serve_app.gateway.speech.fields import SpeechFields
from serve_app.gateway.speech.plan import SpeechPlan
from serve_app.gateway.speech.stream import SpeechStream

PCM_RATE = 24_000
"""Hz of `audio/pcm`."""
LAWS: Mapping[OutputFormat, g711.Law] = {"audio/pcmu": "mu", "audio/pcma": "a"}


class SpokenAnswer:
    """Speaks a text while it is written. Close it when nothing more is read."""

    @classmethod
    async def begin(
        cls, service: Service, headers: Headers, clock: Callable[[], float], settings: ResponseSettings
    ) -> SpokenAnswer:
        """Chooses the voice and takes a place in its queue. `headers` say whose voices may be used. Raises `MotetError`:
        (not_found) for an unknown voice, (unsupported) without a speech model, (overloaded)."""
        model = service.live.settings.speech_model or next(iter(service.speech_models.names), None)
        if model is None:
            cause, remedy = "This service has no model that speaks.", 'Ask for output_modalities ["text"].'
            raise fail("unsupported", cause, remedy, param="output_modalities")
        fields = SpeechFields(
            model=model, voice=settings.voice, response_format="pcm", speed=settings.speed, pacing="played"
        )
        # The chat model's time limits bound the text; while it writes a function call, no words come.
        plan, text = await service.planner.plan_arriving(fields, service.owner(headers), patient=True)
        # Requests to the replica are short, so that an interruption wastes little sound.
        plan = replace(plan, max_request_seconds=plan.pacing.look_ahead_ms / 1000)
        ticket = service.admit(plan.model, headers, 0.0, reach=plan.max_request_seconds)
        ticket.stop_waiting()
        return cls(service, plan, text, ticket, settings.output_format, clock)

    def __init__(
        self,
        service: Service,
        plan: SpeechPlan,
        text: ArrivingText,
        ticket: Ticket,
        output_format: OutputFormat,
        clock: Callable[[], float],
    ) -> None:
        self.spoken = SpokenText(plan.request.speed)
        self._service = service
        self._plan = plan
        self._text = text
        self._ticket = ticket
        self._clock = clock
        self._next_piece = 0
        """The number of the first piece that is not in the text of the answer."""
        self._output = OutputEncoder(plan.traits.sample_rate, output_format)

    def write(self, text: str) -> None:
        """More of the text, in Markdown."""
        if text:
            self._text.write(text)
            if has_words(text):
                self._ticket.extend(len(text) / CHARACTERS_PER_SECOND / self._plan.request.speed)

    def end(self) -> None:
        """The text ends."""
        self._text.end()

    async def has_words(self) -> bool:
        """Waits for words to speak. False if the text ended without any."""
        return bool(await self._text.take(0, 1))

    async def parts(self) -> AsyncGenerator[SpokenPart]:
        """The words and their sound, at most the look-ahead ahead of the listener. Raises what speech raises."""
        service, ticket = self._service, self._ticket
        stream = SpeechStream(self._plan, service.directory, service.cache, ticket, service.recorder, clock=self._clock)
        async with aclosing(stream.encoded()) as encoded:
            async for data in encoded:
                words = "".join(map(self._begun, stream.take_piece_starts()))
                self.spoken.sent_ms += len(data) / 2 / self._plan.traits.sample_rate * 1000
                self.spoken.over = stream.piece_is_over
                yield SpokenPart(words, self._output.encode(data))
        if rest := self._output.finish():
            yield SpokenPart("", rest)

    def close(self) -> None:
        """Gives up the place in the queue. Safe to call twice."""
        self._ticket.close()

    def _begun(self, start: PieceStart) -> str:
        """What a piece that begins adds to the text: nothing if a fallback voice repeats it."""
        if start.index < self._next_piece:
            return ""
        self._next_piece = start.index + 1
        return self.spoken.begin(self._plain(start.text), start.start_seconds * 1000)

    def _plain(self, piece: str) -> str:
        """A piece without the mark of its speaker, if the model has several."""
        return without_marks((piece,))[0] if self._plan.traits.most_speakers > 1 else piece


class OutputEncoder:
    """From 16-bit samples of a model at `sample_rate` Hz to the format of a response."""

    def __init__(self, sample_rate: int, output_format: OutputFormat) -> None:
        self._law = LAWS.get(output_format)
        target_rate = g711.RATE if self._law else PCM_RATE
        self._same_rate = sample_rate == target_rate
        self._resampler = Resampler(sample_rate, target_rate)

    def encode(self, data: bytes) -> bytes:
        """More sound, as far as it is ready."""
        if self._same_rate:
            return self._coded(np.frombuffer(data, "<i2"))
        return self._coded(to_int16(self._resampler.push(to_float(np.frombuffer(data, "<i2")))))

    def finish(self) -> bytes:
        """The end of the sound."""
        return b"" if self._same_rate else self._coded(to_int16(self._resampler.finish()))

    def _coded(self, samples: NDArray[np.int16]) -> bytes:
        return g711.encode(samples, self._law) if self._law else samples.astype("<i2").tobytes()
