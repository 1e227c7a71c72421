"""The playback buffer: one stream of speech between the driver and the encoder, buffered, paced and concealed.

A task takes chunks from the driver and writes them into a buffer; the reader takes frames out as the socket has room. While
the buffer is full the task waits, so no further request goes to any replica. A `played` stream passes a ring buffer in
frames: it is never made further ahead of its listener than the look-ahead, and late chunks are concealed. Any other stream
passes chunk by chunk, as fast as it is read. Sound that the client already has, and that is only made again to find where it
goes on, is neither paced nor concealed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

import numpy as np

from deployments.audio.resample import Resampler
from deployments.engines.protocols import AudioChunk, Samples, first_reason
from serve_app.gateway.settings import PacingSettings
from serve_app.gateway.speech.concealment import Concealment
from serve_app.gateway.speech.pacing import Pacer
from serve_app.gateway.speech.pacing_report import PacingReport
from serve_app.gateway.speech.ring_buffer import ChunkQueue, RingBuffer, SampleBuffer
from serve_app.gateway.speech.source_map import SourceMap, SourcePosition, SourceSpan

ChunkStream = AsyncGenerator[AudioChunk]


@dataclass(frozen=True, slots=True)
class Frame:
    """Sound for the encoder, float32 (n,). `spans` say where in the speech it comes from; they start at the frame's first
    sample. `concealed` sound was made by no engine."""

    samples: Samples
    spans: tuple[SourceSpan, ...]
    concealed: bool = False


class PlaybackBuffer:
    """Buffers one stream at `sample_rate` Hz.

    The client has its first `resumed_samples` already. `fallback` gives the stream of the fallback voice from a piece on.
    `watch` gets each chunk that comes, and the piece with which the fallback voice began that speaks it.
    """

    def __init__(
        self,
        sample_rate: int,
        settings: PacingSettings,
        *,
        played: bool,
        resumed_samples: int = 0,
        fallback: Callable[[int], ChunkStream] | None = None,
        watch: Callable[[AudioChunk, int | None], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.report = PacingReport()
        self._rate = sample_rate
        self._settings = settings
        self._played = played
        self._resumed_left = resumed_samples
        self._fallback = fallback
        self._watch = watch
        self._clock = clock
        capacity = max(1, int(settings.capacity_ms / 1000 * sample_rate))
        self._buffer: SampleBuffer = RingBuffer(capacity) if played else ChunkQueue(capacity)
        self._frame = min(capacity, max(1, int(settings.frame_ms / 1000 * sample_rate)))
        self._pacer = Pacer(settings)
        self._concealment = Concealment(sample_rate)
        # One event for each side. Only the side that waits clears its own, so it misses no change between a look and a wait.
        self._sound_came, self._space_came = asyncio.Event(), asyncio.Event()
        self._writers: list[asyncio.Task[None]] = []
        self._next_piece = 0
        self._gap_seconds = 0.0
        self._source_map = SourceMap()
        self._ends: set[SourcePosition] = set()
        self._written = self._taken = 0
        self._paused = False

    @property
    def buffered_seconds(self) -> float:
        """Seconds of sound that the listener has not played yet, with what is held here."""
        return self._pacer.buffered_seconds(self._held_seconds, self._clock())

    @property
    def _held_seconds(self) -> float:
        return self._buffer.level / self._rate

    @property
    def samples_left(self) -> int | None:
        """Samples that the reader has not taken, if all of the speech was made. None as long as more may come."""
        return self._buffer.level if self.report.all_made else None

    def ends_at(self, position: SourcePosition) -> bool:
        """Whether the sound of a piece of the text is known to end at a position."""
        return position in self._ends

    @contextmanager
    def pause(self) -> Iterator[None]:
        """While this is open there is no text to speak, so no sound is late."""
        self._paused = True
        self._sound_came.set()
        try:
            yield
        finally:
            self._paused = False
            self._pacer.listener.end_pause(self._clock())
            self._sound_came.set()

    @asynccontextmanager
    async def filled_from(self, chunks: ChunkStream, after: SourcePosition | None = None) -> AsyncIterator[None]:
        """Fills the buffer from `chunks` until this is left, and closes them. Sound up to the position `after` is left
        out."""
        if after is not None:
            self.report.fallback_piece = after.fallback_from
        self._start_writer(chunks, after)
        try:
            yield
        finally:
            for writer in self._writers:
                if not writer.cancelling():  # a second time would interrupt the closing of its source
                    writer.cancel()
            await asyncio.gather(*self._writers, return_exceptions=True)

    async def next_frame(self) -> Frame | None:
        """Waits for the next frame; None at the end. Raises what the driver raised, after the sound that was made before."""
        frame = await self._next_frame()
        if frame is not None:
            self._count(frame)
        return frame

    def _start_writer(self, chunks: ChunkStream, after: SourcePosition | None = None) -> None:
        writer = asyncio.create_task(self._write_all(chunks, after, self.report.fallback_piece))
        writer.add_done_callback(lambda _: self._sound_came.set())
        self._writers.append(writer)

    @property
    def _ended(self) -> bool:
        """Whether no more sound comes. A writer that was replaced may still be closing its source; it does not count."""
        return self._writers[-1].done()

    async def _write_all(self, chunks: ChunkStream, after: SourcePosition | None, fallback_from: int | None) -> None:
        async with aclosing(chunks):
            resampler: Resampler | None = None
            position = SourcePosition(-1, 0, fallback_from)
            async for chunk in chunks:
                if self._watch is not None:
                    self._watch(chunk, fallback_from)
                resampler = resampler or Resampler(chunk.sample_rate, self._rate)
                if chunk.index != position.piece:
                    position = SourcePosition(chunk.index, 0, fallback_from)
                samples = resampler.push(chunk.samples)
                if chunk.last and len(rest := resampler.finish()):
                    samples = np.concatenate([samples, rest])
                if chunk.piece_over:
                    self._ends.add(replace(position, sample=position.sample + len(samples)))
                position = await self._write_at(position, samples, after)
                self._next_piece = chunk.index + chunk.piece_over
                self.report.finish_reason = first_reason(self.report.finish_reason, chunk.finish_reason)
                self.report.all_made = chunk.last

    async def _write_at(
        self, position: SourcePosition, samples: Samples, after: SourcePosition | None
    ) -> SourcePosition:
        """Writes the samples at a position that come `after` another one. Returns the position that follows them."""
        new = samples[_received(position, len(samples), after) :]
        following = replace(position, sample=position.sample + len(samples))
        if len(new):
            self._source_map.add(SourceSpan(self._written, replace(following, sample=following.sample - len(new))))
            await self._write(new)
        return following

    async def _write(self, samples: Samples) -> None:
        written = 0
        while written < len(samples):
            count = self._buffer.write(samples[written:])
            written, self._written = written + count, self._written + count
            self._sound_came.set()
            while written < len(samples) and self._buffer.space == 0:
                self._space_came.clear()
                await self._space_came.wait()

    async def _next_frame(self) -> Frame | None:
        await self._wait_for_the_listener()
        while not await self._sound_arrives() and self._buffer.level == 0:
            if self._pacer.listener.playing:
                return self._concealed()
            self._fall_back()  # there is no sound before this that could be extended
        if self._buffer.level == 0:
            self._writers[-1].result()  # raises what the driver raised
            return None
        if not self._resumed_left:
            self._pacer.adapt(self._held_seconds)
        samples = self._buffer.read(min(self._frame, self._resumed_left or self._frame))
        self._space_came.set()
        return Frame(self._concealment.resume(samples), self._spans(len(samples)))

    def _spans(self, count: int) -> tuple[SourceSpan, ...]:
        """The spans of the next samples that leave the buffer."""
        start, self._taken = self._taken, self._taken + count
        return tuple(replace(span, start=span.start - start) for span in self._source_map.advance(self._taken))

    async def _sound_arrives(self) -> bool:
        """Waits for the next frame or the end; False if that takes too long while the listener expects sound."""
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
        """Samples that are worth a frame: a whole frame while the listener plays, any number of samples before the first
        sound, before a pause and before the end."""
        plays = self._played and self._pacer.listener.playing
        return self._frame if plays and not self._paused and not self.report.all_made else 1

    async def _wait_for_the_listener(self) -> None:
        """Waits until a played stream is no further ahead than the look-ahead."""
        if self._played:
            most = max(
                0.0, self._pacer.look_ahead_seconds - self._frame / self._rate
            )  # the next frame adds to the lead
            ahead = self._pacer.listener.buffered_seconds(self._clock()) - most
            if ahead > 0:
                await asyncio.sleep(ahead)

    def _patience_s(self) -> float | None:
        """How long the next sound may take. The first sound: until the fallback takes over. Later: until the listener runs
        dry, plus the budget, which counts once for each gap. When all sound is made, none is late."""
        if not self._played or self._resumed_left or self.report.all_made:
            return None
        if not self._pacer.listener.playing:
            return self._settings.fallback_after_ms / 1000 if self._can_fall_back else None
        budget_ms = 0.0 if self._gap_seconds else self._settings.chunk_budget_ms
        return max(0.0, self._pacer.listener.buffered_seconds(self._clock())) + budget_ms / 1000

    def _concealed(self) -> Frame:
        late_ms = self._settings.chunk_budget_ms + self._gap_seconds * 1000
        if late_ms >= self._settings.fallback_after_ms and self._can_fall_back:
            self._fall_back()
        gap = SourceSpan(0, self._source_map.position, concealed=True)
        return Frame(self._concealment.conceal(self._frame), (gap,), concealed=True)

    @property
    def _can_fall_back(self) -> bool:
        return self._fallback is not None and not self.report.fallback

    def _fall_back(self) -> None:
        """Lets the fallback voice take over. It repeats the piece that was cut short from its start, so that no word is
        lost."""
        assert self._fallback is not None
        self.report.fallback_piece = self._next_piece
        self._writers[-1].cancel()
        self._start_writer(self._fallback(self._next_piece))

    def _count(self, frame: Frame) -> None:
        self.report.sent_seconds += len(frame.samples) / self._rate
        self._concealment.sent(frame.samples)
        resumed = min(self._resumed_left, len(frame.samples))
        self._resumed_left -= resumed
        if resumed < len(frame.samples):
            self._count_played((len(frame.samples) - resumed) / self._rate, frame.concealed)

    def _count_played(self, seconds: float, concealed: bool) -> None:
        listener, now = self._pacer.listener, self._clock()
        if listener.playing:
            lead, least = max(0.0, listener.buffered_seconds(now)), self.report.least_lead_seconds
            self.report.least_lead_seconds = lead if least is None else min(least, lead)
        listener.send(seconds, now)
        self.report.underruns = listener.underruns
        self._gap_seconds = self._gap_seconds + seconds if concealed else 0.0
        if concealed:
            self.report.concealed_seconds += seconds
            self.report.concealments += 1


def _received(position: SourcePosition, count: int, after: SourcePosition | None) -> int:
    """How many of the `count` samples at a position a client has that has received everything up to `after`."""
    if after is None or position.piece > after.piece:
        return 0
    return count if position.piece < after.piece else min(count, max(0, after.sample - position.sample))
