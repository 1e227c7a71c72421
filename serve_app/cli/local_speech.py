"""Speech by an engine in this process: a text, whole or as it is written, into a file."""

from __future__ import annotations

import time
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from select import select
from threading import Thread
from typing import Any, BinaryIO

from deployments.audio.encode import AudioFormat
from deployments.engines.protocols import FinishReason, first_reason
from deployments.errors import fail
from deployments.settings import PieceSettings
from deployments.tasks.speech import SpeechTask, choose_voice, no_sound, nothing_to_say, speak_as_written, speakers_of
from deployments.text.segmentation import Cutter
from serve_app.cli.local import Progress, load_model, sound_file
from serve_app.config import AppConfig


@dataclass(frozen=True, slots=True)
class SpeechOrder:
    """What to say, and how: `voice` None is the model's own, `speed` is relative to the voice's pace. A text that is still
    being written comes in parts, with a None where its writer pauses."""

    text: str | Iterable[str | None]
    voice: str | None
    speed: float
    seed: int


@dataclass(frozen=True, slots=True)
class Spoken:
    """What was said and how long it took. Wall and first sound count from the start of the command, and so take in the
    import of libraries and the loading of the model, but not the time in which there was no text to speak."""

    output: str
    model: str
    voice: str
    hardware: str
    characters: int
    audio_seconds: float
    load_seconds: float
    wall_seconds: float
    first_sound_seconds: float
    times_real_time: float
    """Audio made per second of work after the model was loaded: cutting, speaking, encoding and writing."""
    finish_reason: FinishReason
    """Why the first piece that did not end by itself was ended; "stop" where there is none."""


def say(
    order: SpeechOrder,
    app: AppConfig,
    wanted: str | None,
    path: Path,
    form: AudioFormat,
    progress: Progress,
    started: float,
) -> Spoken:
    """Speaks a text into a file, piece by piece. `started` is when the command did, by `time.perf_counter`."""
    loaded = load_model(app, wanted, "speech")
    working = time.perf_counter()
    traits = loaded.engine.traits
    voice = choose_voice(order.voice, traits, loaded.model.voice_aliases)
    text = WrittenText(order.text, app.speech.pieces, speakers_of(traits, voice))
    task = SpeechTask((), voice, order.speed, order.seed)
    first, done = 0.0, 0
    reason: FinishReason = "stop"
    with sound_file(path, form, traits.sample_rate, channels=1) as writer:
        for chunk in speak_as_written(task, text.groups(), loaded.engine):
            writer.write(chunk.samples)
            first = first or time.perf_counter() - started - text.waited_seconds
            done += len(text.pieces[chunk.index]) if chunk.piece_over else 0
            progress(done, text.characters)
            reason = first_reason(reason, chunk.finish_reason)
        if not text.pieces:
            raise nothing_to_say()
        if not writer.seconds:
            raise no_sound(reason)
    working, started = working + text.waited_seconds, started + text.waited_seconds
    ended = time.perf_counter()
    return Spoken(
        output=str(path),
        model=loaded.name,
        voice=voice,
        hardware=loaded.hardware,
        characters=text.characters,
        audio_seconds=writer.seconds,
        load_seconds=loaded.load_seconds,
        wall_seconds=ended - started,
        first_sound_seconds=first,
        times_real_time=writer.seconds / (ended - working),
        finish_reason=reason,
    )


class WrittenText:
    """A text in groups of pieces: all of them, or those that can be spoken whenever more of it came."""

    def __init__(
        self,
        text: str | Iterable[str | None],
        pieces: PieceSettings,
        speakers: Callable[[Sequence[str]], tuple[str, ...]],
    ) -> None:
        self.pieces: list[str] = []
        self.waited_seconds = 0.0
        """For its writer."""
        self._parts = [text] if isinstance(text, str) else text
        self._whole = isinstance(text, str)
        self._cutter = Cutter(pieces)
        self._speakers = speakers

    @property
    def characters(self) -> int:
        """Of all pieces so far."""
        return sum(map(len, self.pieces))

    def groups(self) -> Iterator[tuple[str, ...]]:
        """The pieces in order. Raises `MotetError` (invalid) for text that cannot be read."""
        for part in self._arriving():
            if part is None:
                self._cutter.flush_words()
            else:
                self._cutter.write(part)
            if not self._whole:
                yield from self._settled()
        self._cutter.flush()
        yield from self._settled()

    def _settled(self) -> Iterator[tuple[str, ...]]:
        if group := self._speakers(list(self._cutter.settled())):
            self.pieces += group
            yield group

    def _arriving(self) -> Iterator[str | None]:
        parts = iter(self._parts)
        while True:
            asked = time.perf_counter()
            try:
                part = next(parts)
            except StopIteration:
                return
            finally:
                self.waited_seconds += time.perf_counter() - asked
            yield part


READ_BYTES = 64 * 1024
READ_AHEAD = 16
"""Reads that may wait to be spoken: then the writer waits."""


def read_as_it_comes(file: BinaryIO, pause_s: float) -> Iterator[str | None]:
    """A UTF-8 text in parts as somebody writes it, with a None where no more came for `pause_s`. It is read from now on,
    beside whatever else is done. Raises `MotetError` for what is no UTF-8, or cannot be read."""
    arrived: Queue[bytes | Exception] = Queue(READ_AHEAD)
    # A thread that waits inside a buffered file when the program ends brings Python down with a fatal error.
    unbuffered: Any = getattr(file, "raw", file)

    def pump() -> None:
        data: bytes | None = b"more"
        try:
            while data != b"":
                data = unbuffered.read(READ_BYTES)
                if data is None:  # nothing yet, in a file that does not wait for it
                    select([unbuffered], [], [])
                else:
                    arrived.put(data)
        except Exception as error:
            arrived.put(error)

    Thread(target=pump, daemon=True).start()
    return _decoded(arrived, pause_s)


def _decoded(arrived: Queue[bytes | Exception], pause_s: float) -> Iterator[str | None]:
    decoder = getincrementaldecoder("utf-8")()
    data, fresh = b"more", False
    while data:
        try:
            came = arrived.get(timeout=pause_s if fresh else None)
            if isinstance(came, Exception):
                remedy = "Pipe the text in, or name it on the command line."
                raise fail("invalid", f"The text cannot be read: {came}.", remedy) from came
            data, fresh = came, True
            yield decoder.decode(data, final=not data)
        except Empty:
            fresh = False
            yield None
        except UnicodeDecodeError as error:
            raise fail("invalid", f"The text is not UTF-8: {error}.", "Convert it, for example with iconv.") from error
