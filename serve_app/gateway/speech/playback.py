"""One stream of speech between an engine and a socket: buffered, paced, concealed.

A filler takes chunks from the engine and writes them into a buffer; the reader takes them out as the socket has room. When
the buffer is full the filler waits, so no further request is made of any replica. A stream that is `played` as it comes
goes in frames through a ring, is never made further ahead of its listener than the look-ahead, and is concealed where it
is late; any other goes chunk by chunk, as fast as it is read. What the listener heard before and is only made again goes as
fast as it can be, whatever the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace

from deployments.audio.resample import Resampler
from deployments.engines.protocols import AudioChunk, Samples, first_reason
from serve_app.gateway.settings import PacingSettings
from serve_app.gateway.speech.concealment import Concealment
from serve_app.gateway.speech.pacing import Pacer
from serve_app.gateway.speech.pacing_report import PacingReport
from serve_app.gateway.speech.ring_buffer import Buffer, HandOver, RingBuffer
from serve_app.gateway.speech.source_map import SourceMap, SourcePosition, Span

Chunks = AsyncGenerator[AudioChunk]


@dataclass(frozen=True, slots=True)
class Frame:
    """Some sound for the socket, float32 (n,). `stretches` tell where in the speech it comes from, counted from the frame's
    first sample; `concealed` that no engine made it."""

    samples: Samples
    stretches: tuple[Span, ...]
    concealed: bool = False


class PacedSpeech:
    """Give it the engine's chunks, and read frames."""

    def __init__(
        self,
        sample_rate: int,
        settings: PacingSettings,
        *,
        played: bool,
        heard_samples: int = 0,
        fallback: Callable[[int], Chunks] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.report = PacingReport()
        self._rate = sample_rate
        self._settings = settings
        self._played = played
        self._heard_left = heard_samples
        """How much more of what the listener has comes first. It is nobody's wait: not paced, and never late."""
        self._fallback = fallback
        self._clock = clock
        capacity = max(1, int(settings.capacity_ms / 1000 * sample_rate))
        self._buffer: Buffer = RingBuffer(capacity) if played else HandOver(capacity)
        self._frame = min(capacity, max(1, int(settings.frame_ms / 1000 * sample_rate)))
        self._pacer = Pacer(settings)
        self._concealment = Concealment(sample_rate)
        # One for each that waits, who alone clears it: so no change is missed between a look and the wait after it.
        self._sound_came, self._room_came = asyncio.Event(), asyncio.Event()
        self._fillers: list[asyncio.Task[None]] = []
        self._next_piece = 0
        self._gap_seconds = 0.0
        self._course = SourceMap()
        self._ends: set[SourcePosition] = set()
        self._written = self._taken = 0
        self._paused = False

    @property
    def lasts_seconds(self) -> float:
        """How long the listener's sound lasts from now, with what is buffered here."""
        return self._pacer.deadline_seconds(self._buffered_seconds, self._clock())

    @property
    def _buffered_seconds(self) -> float:
        return self._buffer.level / self._rate

    def ends_at(self, place: SourcePosition) -> bool:
        """Whether the sound of a piece of the text is over at a place: its model has said so."""
        return place in self._ends

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Inside, no sound is owed, as there is nothing to say yet: none is late."""
        self._paused = True
        self._sound_came.set()
        try:
            yield
        finally:
            self._paused = False
            self._pacer.playout.rest_if_dry(self._clock())
            self._sound_came.set()

    async def frames(self, chunks: Chunks, after: SourcePosition | None = None) -> AsyncGenerator[Frame]:
        """The stream's sound, or what comes `after` a place that was heard before. Raises what the engine raised, after the
        sound that was made before it."""
        if after is not None:
            self.report.fallback_piece = after.fallback_from
        self._fill_from(chunks, after)
        try:
            while (frame := await self._next_frame()) is not None:
                self._count(frame)
                yield frame
        finally:
            await self._stop_filling()

    def _fill_from(self, chunks: Chunks, after: SourcePosition | None = None) -> None:
        filler = asyncio.create_task(self._fill(chunks, after, self.report.fallback_piece))
        filler.add_done_callback(lambda _: self._sound_came.set())
        self._fillers.append(filler)

    @property
    def _ended(self) -> bool:
        """Whether no more sound comes. One that was replaced may still be closing its source; it has no say."""
        return self._fillers[-1].done()

    async def _stop_filling(self) -> None:
        for filler in self._fillers:
            if not filler.cancelling():  # a second time would break into its source's closing
                filler.cancel()
        await asyncio.gather(*self._fillers, return_exceptions=True)

    async def _fill(self, chunks: Chunks, after: SourcePosition | None, fallback_from: int | None) -> None:
        async with aclosing(chunks):
            resampler: Resampler | None = None
            place = SourcePosition(-1, 0, fallback_from)
            async for chunk in chunks:
                resampler = resampler or Resampler(chunk.sample_rate, self._rate)
                if chunk.index != place.piece:
                    place = SourcePosition(chunk.index, 0, fallback_from)
                samples = resampler.push(chunk.samples)
                if chunk.piece_over:
                    self._ends.add(replace(place, sample=place.sample + len(samples)))
                place = await self._write_from(place, samples, after)
                self._next_piece = chunk.index + chunk.piece_over
                self.report.finish_reason = first_reason(self.report.finish_reason, chunk.finish_reason)
                self.report.all_made = chunk.last
            if resampler is not None:
                await self._write_from(place, resampler.finish(), after)

    async def _write_from(
        self, place: SourcePosition, samples: Samples, after: SourcePosition | None
    ) -> SourcePosition:
        """Writes what is at a place, but for what was heard before. Returns the place that follows."""
        new = samples[_heard(place, len(samples), after) :]
        following = replace(place, sample=place.sample + len(samples))
        if len(new):
            self._course.add(Span(self._written, replace(following, sample=following.sample - len(new))))
            await self._write(new)
        return following

    async def _write(self, samples: Samples) -> None:
        written = 0
        while written < len(samples):
            count = self._buffer.write(samples[written:])
            written, self._written = written + count, self._written + count
            self._sound_came.set()
            while written < len(samples) and self._buffer.room == 0:
                self._room_came.clear()
                await self._room_came.wait()

    async def _next_frame(self) -> Frame | None:
        await self._wait_for_the_listener()
        while not await self._sound_is_there() and self._buffer.level == 0:
            if self._pacer.playout.plays:
                return self._concealed()
            self._fall_back()  # there is no sound yet that could be concealed
        if self._buffer.level == 0:
            self._fillers[-1].result()  # raises what the engine raised
            return None
        if not self._heard_left:
            self._pacer.adapt(self._buffered_seconds)
        samples = self._buffer.read(min(self._frame, self._heard_left or self._frame))
        self._room_came.set()
        return Frame(self._concealment.resume(samples), self._stretches(len(samples)))

    def _stretches(self, count: int) -> tuple[Span, ...]:
        """Of the next samples that were taken out of the buffer."""
        start, self._taken = self._taken, self._taken + count
        return tuple(replace(passed, start=passed.start - start) for passed in self._course.go(self._taken))

    async def _sound_is_there(self) -> bool:
        """Waits for the next frame or the end; False when that takes too long while sound is owed."""
        patience_s, since_s = self._patience_s(), self._clock()
        while self._buffer.level < self._enough and not self._ended:
            self._sound_came.clear()
            if self._paused:
                await self._sound_came.wait()
                patience_s, since_s = self._patience_s(), self._clock()
                continue
            left = None if patience_s is None else since_s + patience_s - self._clock()
            if left is not None and left <= 0:
                return False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._sound_came.wait(), left)
        return True

    @property
    def _enough(self) -> int:
        """Samples that are worth a frame: of the first sound and the last before a pause any, else a whole one where frames
        are cut."""
        return self._frame if self._played and self._pacer.playout.plays and not self._paused else 1

    async def _wait_for_the_listener(self) -> None:
        """Does not send further ahead than the look-ahead, for a stream that is played as it comes."""
        if self._played:
            most = max(0.0, self._pacer.look_ahead_seconds - self._frame / self._rate)  # with the next frame on top
            ahead = self._pacer.playout.lead(self._clock()) - most
            if ahead > 0:
                await asyncio.sleep(ahead)

    def _patience_s(self) -> float | None:
        """How long the next sound may take: until the listener runs dry, and the budget on top, once for each gap. The first
        sound may take until the fallback takes over."""
        if not self._played or self._heard_left:
            return None
        if not self._pacer.playout.plays:
            return self._settings.fallback_after_ms / 1000 if self._can_fall_back else None
        budget_ms = 0.0 if self._gap_seconds else self._settings.chunk_budget_ms
        return max(0.0, self._pacer.playout.lead(self._clock())) + budget_ms / 1000

    def _concealed(self) -> Frame:
        late_ms = self._settings.chunk_budget_ms + self._gap_seconds * 1000
        if late_ms >= self._settings.fallback_after_ms and self._can_fall_back:
            self._fall_back()
        gap = Span(0, self._course.here, concealed=True)
        return Frame(self._concealment.conceal(self._frame), (gap,), concealed=True)

    @property
    def _can_fall_back(self) -> bool:
        return self._fallback is not None and not self.report.fallback

    def _fall_back(self) -> None:
        """The other voice says the piece that was cut short from its beginning: twice a part of it, rather than never the
        rest."""
        assert self._fallback is not None
        self.report.fallback_piece = self._next_piece
        self._fillers[-1].cancel()
        self._fill_from(self._fallback(self._next_piece))

    def _count(self, frame: Frame) -> None:
        self.report.sent_seconds += len(frame.samples) / self._rate
        self._concealment.sent(frame.samples)
        heard = min(self._heard_left, len(frame.samples))
        self._heard_left -= heard
        if heard < len(frame.samples):
            self._count_played((len(frame.samples) - heard) / self._rate, frame.concealed)

    def _count_played(self, seconds: float, concealed: bool) -> None:
        playout, now = self._pacer.playout, self._clock()
        if playout.plays:
            lead, least = max(0.0, playout.lead(now)), self.report.least_lead_seconds
            self.report.least_lead_seconds = lead if least is None else min(least, lead)
        playout.send(seconds, now)
        self.report.underruns = playout.underruns
        self._gap_seconds = self._gap_seconds + seconds if concealed else 0.0
        if concealed:
            self.report.concealed_seconds += seconds
            self.report.concealments += 1


def _heard(place: SourcePosition, count: int, after: SourcePosition | None) -> int:
    """How many of so many samples at a place were heard by who has come to `after`."""
    if after is None or place.piece > after.piece:
        return 0
    return count if place.piece < after.piece else min(count, max(0, after.sample - place.sample))
