"""One turn of a client: its sound, and the events about its text while a model recognizes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from deployments.engines.protocols import RecognitionOptions, Transcript
from deployments.engines.streaming import PartialTranscript
from deployments.errors import Failure
from deployments.tracing.spans import within
from serve_app.gateway.errors import error_fields, logged
from serve_app.gateway.live.audio_input import SAMPLE_RATE, Int16
from serve_app.gateway.live.items import new_id
from serve_app.gateway.transcript_formats import log_probability

EVENTS = "conversation.item.input_audio_transcription"


class TurnRecognition(Protocol):
    """Recognizes one turn: see `LiveRecognition`."""

    def push(self, samples: Int16) -> None:
        """Adds mono samples at 16 kHz."""

    def pause(self) -> None:
        """Speech seems to have ended."""

    def finish(self, samples: int) -> None:
        """The speech ended after the first `samples`."""

    def partials(self) -> AsyncGenerator[PartialTranscript]:
        """The text so far, again and again, until the last one. Raises `MotetError`."""

    @property
    def waiting_samples(self) -> int:
        """Samples that were pushed and not heard yet."""

    async def close(self) -> None:
        """Stops the work. Safe to call twice."""


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """How the turns of a session are heard.

    `model` is None if nothing needs their text. `reported`: the client gets the text; `tentative`: also the words that may
    still change. `translated`: the model hears each turn a second time, in English. `delay_s`: how many seconds of new
    sound a hearing waits for, at least.
    """

    model: str | None
    options: RecognitionOptions
    reported: bool
    tentative: bool = False
    translated: bool = False
    delay_s: float = 0.0


class SpokenTurn:
    """A turn that began at the position `start` of the session, in samples."""

    def __init__(
        self,
        start: int,
        hearing: TurnOptions,
        recognition: TurnRecognition | None,
        translation: TurnRecognition | None,
        emit: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self.id = new_id("item")
        self.start = start
        self._hearing = hearing
        self._recognition = recognition
        self._translation = translation
        self._emit = emit
        self._committed_text = ""
        self._tentative = ""
        self._samples = 0
        self._complete = asyncio.Event()

    @property
    def _recognitions(self) -> list[TurnRecognition]:
        return [each for each in (self._recognition, self._translation) if each is not None]

    @property
    def waiting_samples(self) -> int:
        """Sound that waits to be heard."""
        return max((each.waiting_samples for each in self._recognitions), default=0)

    def push(self, samples: Int16) -> None:
        """Adds sound."""
        for recognition in self._recognitions:
            recognition.push(samples)

    def pause(self) -> None:
        """Speech seems to have ended."""
        for recognition in self._recognitions:
            recognition.pause()

    def finish(self, end: int) -> None:
        """The speech ended at a position of the session. The client knows of the turn's item when this is called."""
        self._samples = end - self.start
        for recognition in self._recognitions:
            recognition.finish(self._samples)
        self._complete.set()

    async def run(self, heard: Callable[[str | None, str | None], None]) -> None:
        """Emits the text until it is complete, and calls `heard` with it and its translation; with None if the model
        failed."""
        try:
            if self._recognition is None:
                await self._complete.wait()
                heard("", None)
                return
            with within("turn"):
                last, english = await self._hear_twice(self._recognition)
        except Exception as error:
            failure = logged(error)
            await self.close()
            # The rest of the turn is not kept, and does not count as waiting.
            self._recognition = self._translation = None
            await self._complete.wait()
            self._fail(failure)
            heard(None, None)
        else:
            # Before the event: a client may answer it at once with `response.create`.
            heard(self._committed_text.strip(), english)
            self._report(last)
        finally:
            await self.close()

    async def close(self) -> None:
        """Stops hearing the turn. Safe to call twice."""
        for recognition in self._recognitions:
            await recognition.close()

    async def _hear_twice(self, recognition: TurnRecognition) -> tuple[PartialTranscript | None, str | None]:
        """Both hearings of the turn. When one fails, the other is cancelled, because its result is of no use."""
        hearing, translating = asyncio.create_task(self._hear(recognition)), asyncio.create_task(self._translate())
        try:
            await asyncio.wait((hearing, translating), return_when=asyncio.FIRST_EXCEPTION)
            for task in (translating, hearing):
                if task.done():
                    task.result()
            return hearing.result(), translating.result()
        finally:
            for task in (hearing, translating):
                task.cancel()
            await asyncio.gather(hearing, translating, return_exceptions=True)

    async def _hear(self, recognition: TurnRecognition) -> PartialTranscript | None:
        last = None
        async with aclosing(recognition.partials()) as partials:
            async for partial in partials:
                self._note(partial)
                last = partial
        return last

    async def _translate(self) -> str | None:
        if self._translation is None:
            return None
        text = ""
        async with aclosing(self._translation.partials()) as partials:
            async for partial in partials:
                text = partial.committed
        return text.strip()

    def _note(self, partial: PartialTranscript) -> None:
        """Emits the words that are new. The words of a `delta` never change."""
        new = partial.committed[len(self._committed_text) :]
        self._committed_text = partial.committed
        if new:
            self._event("delta", delta=new)
        if self._hearing.tentative and (new or partial.tentative != self._tentative) and not partial.last:
            self._event("tentative", tentative=partial.tentative)
        self._tentative = partial.tentative

    def _report(self, last: PartialTranscript | None) -> None:
        transcript = (last.transcript if last else None) or Transcript((), "en")
        fields: dict[str, Any] = {"usage": {"type": "duration", "seconds": round(self._samples / SAMPLE_RATE, 3)}}
        if self._hearing.options.token_probabilities:
            fields["logprobs"] = [log_probability(token) for token in transcript.tokens]
        if last and last.language:
            fields["languages"] = [{"code": last.language}]
        self._event("completed", transcript=self._committed_text.strip(), **fields)

    def _fail(self, failure: Failure) -> None:
        self._event("failed", error=error_fields(failure))

    def _event(self, kind: str, **fields: Any) -> None:
        if self._hearing.reported:
            event: Mapping[str, Any] = {"type": f"{EVENTS}.{kind}", "item_id": self.id, "content_index": 0, **fields}
            self._emit(event)
