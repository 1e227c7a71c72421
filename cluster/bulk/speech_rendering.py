"""Speech rows through an engine: many at once, each with an outcome of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.bulk.job import SpeechOrder, seed_of
from cluster.bulk.plan import WorkItem
from cluster.bulk.results import Outcome, Result, Timing, digest_of
from cluster.bulk.sound import SoundBytes
from deployments.audio.stretch import Stretcher
from deployments.engines.protocols import (
    AudioChunk,
    FinishReason,
    LimitsStreams,
    SpeechEngine,
    SpeechRequest,
    StepsConcurrently,
    first_reason,
)
from deployments.errors import as_failure
from deployments.tasks.engine_calls import advance_or_halve
from deployments.tasks.speech import by_speakers, choose_voice, no_sound, nothing_to_say, pace_of, stretched
from deployments.text.segmentation import cut_into_pieces


class SpeechRenderer:
    """Keeps `width` utterances under way; when one ends, the next takes its place in the engine's batch."""

    def __init__(self, engine: SpeechEngine[Any], order: SpeechOrder, width: int) -> None:
        self._engine = engine
        self._order = order
        places = (engine.max_streams,) if isinstance(engine, LimitsStreams) else ()
        lanes = (engine.concurrency,) if isinstance(engine, StepsConcurrently) else ()
        self._width = min([width, *places, *lanes])
        self._traits = engine.traits
        self._voice = choose_voice(order.voice, self._traits, order.voice_aliases)

    def render(self, items: Sequence[WorkItem], recordings: Sequence[bytes | None]) -> list[Outcome]:
        """See `Renderer`."""
        outcomes: dict[int, Outcome] = {}
        waiting = deque(enumerate(items))
        active: dict[int, _Take] = {}
        while waiting or active:
            while waiting and len(active) < self._width:
                at, item = waiting.popleft()
                try:
                    active[at] = self._take(item)
                except Exception as error:
                    outcomes[at] = as_failure(error)
            outcomes |= self._step(active)
            active = {at: take for at, take in active.items() if at not in outcomes}
        return [outcomes[at] for at in range(len(items))]

    def _take(self, item: WorkItem) -> _Take:
        order = self._order
        voice = self._voice if item.voice is None else choose_voice(item.voice, self._traits, order.voice_aliases)
        cut = cut_into_pieces(item.text, order.pieces)
        if not cut:
            raise nothing_to_say()
        pieces = by_speakers(cut, self._traits, voice)
        pace = pace_of(order.speed, self._traits)
        utterance = self._engine.open(SpeechRequest(pieces, voice, pace.speed, seed_of(item.key)))
        rate = self._traits.sample_rate
        return _Take(
            item.text, voice, utterance, Stretcher(rate, pace.tempo), SoundBytes(order.form, rate, 1), order, rate
        )

    def _step(self, active: Mapping[int, _Take]) -> dict[int, Outcome]:
        ended: dict[int, Outcome] = {}
        if not active:
            return ended
        chunks = advance_or_halve(self._engine.step, [take.utterance for take in active.values()])
        for (at, take), chunk in zip(active.items(), chunks, strict=True):
            try:
                take.push(chunk)
                if take.utterance.finished:
                    ended[at] = [take.result()]
            except Exception as error:
                ended[at] = as_failure(error)
                take.sound.close()
            if at in ended:
                self._engine.close(take.utterance)
        return ended


class _Take:
    """One row while it is spoken."""

    def __init__(
        self,
        text: str,
        voice: str,
        utterance: Any,
        stretcher: Stretcher,
        sound: SoundBytes,
        order: SpeechOrder,
        rate: int,
    ) -> None:
        self.utterance = utterance
        self.sound = sound
        self._text, self._voice, self._order, self._rate = text, voice, order, rate
        self._stretcher = stretcher
        self._ends: dict[int, Timing] = {}
        self._reason: FinishReason = "stop"

    def push(self, chunk: AudioChunk | Exception) -> None:
        if isinstance(chunk, Exception):
            raise chunk
        before = self._ends.get(chunk.index)
        start = self.sound.seconds if before is None else before.start
        self.sound.write(stretched(chunk, self._stretcher).samples)
        self._ends[chunk.index] = Timing(start, self.sound.seconds, chunk.text)
        self._reason = first_reason(self._reason, chunk.finish_reason)

    def result(self) -> Result:
        """The finished row. Raises `MotetError` where the model made no sound at all, as a service would answer."""
        if self.sound.seconds == 0:
            raise no_sound(self._reason)
        seconds, data = self.sound.seconds, self.sound.finish()
        return Result(
            seconds=seconds,
            text=self._text,
            audio=data,
            format=self._order.form,
            sample_rate=self._rate,
            sha256=digest_of(data),
            voice=self._voice,
            timings=tuple(self._ends[index] for index in sorted(self._ends)),
            finish_reason=self._reason,
        )
