"""Speech by an engine in this process: a text, whole or as it is written, into a file."""

from __future__ import annotations

import time
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from select import select
from threading import Thread
from typing import Any, BinaryIO

from deployments.audio.formats import AudioFormat
from deployments.engines.protocols import FinishReason, SpeechRequest, first_reason
from deployments.errors import fail
from deployments.settings import PieceSettings
from deployments.tasks.in_process_speech import speak_here
from deployments.tasks.voice_choice import choose_voice, speaker_marker
from deployments.text.segmentation import Cutter
from deployments.text.sources import group_of
from serve_app.cli.local import Progress, load_model, sound_file
from serve_app.config import AppConfig


@dataclass(frozen=True, slots=True)
class SpokenFile:
    """What was said and how long it took. Wall and first sound count from the start of the command, and so include the import
    of libraries and the loading of the model, but not the time in which there was no text to speak."""

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
    text: str | Iterable[str | None],
    app: AppConfig,
    path: Path,
    form: AudioFormat,
    progress: Progress,
    started: float,
    *,
    model: str | None = None,
    voice: str | None = None,
    speed: float = 1.0,
    seed: int = 0,
) -> SpokenFile:
    """Speaks a text into a file, piece by piece.

    A text that is still being written comes in parts, with a None where its writer pauses. Without a `model` the first
    speech model of the configuration speaks, without a `voice` the model's default voice. `started` is the time at which the
    command started, by `time.perf_counter`.
    """
    loaded = load_model(app, model, "speech")
    working = time.perf_counter()
    traits = loaded.engine.traits
    voice = choose_voice(voice, traits, loaded.model.voice_aliases)
    source = WrittenText(text, app.speech.pieces, speaker_marker(traits, voice))
    first_sound, spoken_characters = 0.0, 0
    reason: FinishReason = "stop"
    chunks = speak_here(SpeechRequest((), voice, speed, seed), loaded.engine, source)
    with sound_file(path, form, traits.sample_rate, channels=1) as writer, closing(chunks):
        for chunk in chunks:
            writer.write(chunk.samples)
            first_sound = first_sound or time.perf_counter() - started - source.waited_seconds
            spoken_characters += len(source.pieces[chunk.index]) if chunk.piece_over else 0
            progress(spoken_characters, source.characters)
            reason = first_reason(reason, chunk.finish_reason)
    working, started = working + source.waited_seconds, started + source.waited_seconds
    ended = time.perf_counter()
    return SpokenFile(
        output=str(path),
        model=loaded.name,
        voice=voice,
        hardware=loaded.hardware,
        characters=source.characters,
        audio_seconds=writer.seconds,
        load_seconds=loaded.load_seconds,
        wall_seconds=ended - started,
        first_sound_seconds=first_sound,
        times_real_time=writer.seconds / (ended - working),
        finish_reason=reason,
    )


class WrittenText:
    """A text for `speak_here`, whole or in the parts in which it is written. It blocks while it waits for the next part."""

    def __init__(
        self,
        text: str | Iterable[str | None],
        pieces: PieceSettings,
        mark_speakers: Callable[[Sequence[str]], tuple[str, ...]],
    ) -> None:
        self.pieces: list[str] = []
        self.waited_seconds = 0.0
        """How long it waited for its writer."""
        self._parts = iter([text] if isinstance(text, str) else text)
        self._whole = isinstance(text, str)
        self._cutter = Cutter(pieces)
        self._mark_speakers = mark_speakers
        self._ended = False

    @property
    def characters(self) -> int:
        """Characters of all pieces so far."""
        return sum(map(len, self.pieces))

    async def take(self, first: int, characters: float) -> tuple[str, ...]:
        """See `PieceSource`. Raises `MotetError` (invalid) for text that cannot be read."""
        while len(self.pieces) <= first and not self._ended:
            self._read_part()
        return group_of(self.pieces, first, characters)

    def ends_at(self, number: int) -> bool:
        """See `PieceSource`."""
        return self._ended and number >= len(self.pieces)

    def _read_part(self) -> None:
        asked = time.perf_counter()
        part: str | None = None
        try:
            part = next(self._parts)
        except StopIteration:
            self._ended = True
        finally:
            self.waited_seconds += time.perf_counter() - asked
        if self._ended:
            self._cutter.flush()
        elif part is None:
            self._cutter.flush_words()
        else:
            self._cutter.write(part)
        if self._ended or not self._whole:  # a whole text is one request
            self.pieces += self._mark_speakers(list(self._cutter.settled()))


READ_BYTES = 64 * 1024
MAX_READS_AHEAD = 16
"""Reads that may wait to be spoken. Beyond them the writer waits."""


def read_as_it_comes(file: BinaryIO, pause_s: float) -> Iterator[str | None]:
    """A UTF-8 text in parts as it is written, with a None where no more came for `pause_s`.

    A thread reads the file from now on. Raises `MotetError` (invalid) if the text is not UTF-8 or cannot be read.
    """
    arrived: Queue[bytes | Exception] = Queue(MAX_READS_AHEAD)
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
                remedy = "Pipe the text in, or give it on the command line."
                raise fail("invalid", f"The text cannot be read: {came}.", remedy) from came
            data, fresh = came, True
            yield decoder.decode(data, final=not data)
        except Empty:
            fresh = False
            yield None
        except UnicodeDecodeError as error:
            raise fail("invalid", f"The text is not UTF-8: {error}.", "Convert it, for example with iconv.") from error
