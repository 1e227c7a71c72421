"""The engines in this process, without a cluster: what the command line runs on."""

from __future__ import annotations

import os
import secrets
import sys
import time
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from select import select
from threading import Thread
from typing import Any, BinaryIO, Literal

import numpy as np
import yaml
from pydantic import ValidationError

from cluster.hardware import HardwareClass
from deployments.audio.chunking import ChunkPlan, PlannedChunk, plan_chunks
from deployments.audio.decode import AudioDecoder
from deployments.audio.encode import FORMATS, AudioFormat, open_encoder
from deployments.audio.overlap_add import OverlapAdder
from deployments.audio.resample import rate_for
from deployments.engines import registry, sources
from deployments.engines.protocols import (
    Chunk,
    EngineSpec,
    FinishReason,
    RecognitionOptions,
    Samples,
    SeparationEngine,
    first_reason,
)
from deployments.engines.registry import Task
from deployments.errors import MotetError, fail
from deployments.replica.malloc_trim import keep_freed_memory
from deployments.settings import PieceSettings
from deployments.tasks.separation import chunks_of, usual_overlap_seconds
from deployments.tasks.speech import SpeechTask, choose_voice, no_sound, nothing_to_say, speak_as_written, speakers_of
from deployments.tasks.transcription import TranscriptWindow, transcribe_here
from deployments.text.segmentation import Cutter
from serve_app.config import AppConfig, Model, Separation, Windows, mistakes_of

STDOUT = Path("-")

Progress = Callable[[int, int], None]
"""Told how much of the whole is done, and the whole."""


# --- Models


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in this process, on `hardware` (cpu, cuda or mlx)."""

    name: str
    model: Model
    hardware: str
    engine: Any
    load_seconds: float


def read_app(path: Path | None) -> AppConfig:
    """Motet's part of a `serve_config.yaml`, or the defaults when there is no file.

    Ray Serve's part is left to `motet serve`: its schema takes more time to import than a sentence takes to speak.
    Raises `MotetError` that lists every mistake.
    """
    if path is None:
        return AppConfig()
    try:
        document = yaml.safe_load(path.read_text())
        arguments = (document.get("applications") or [{}])[0].get("args") or {}
    except (OSError, yaml.YAMLError, AttributeError, LookupError, TypeError) as error:
        raise fail("invalid", f"{path} cannot be read: {error}", "Check the file.") from error
    try:
        return AppConfig.model_validate(arguments)
    except ValidationError as error:
        mistakes = "\n".join(f"  - {mistake}" for mistake in mistakes_of(error, AppConfig))
        raise fail("invalid", f"{path} has mistakes:\n{mistakes}\n", "Mend them.") from error


def find_model(models: Mapping[str, Model], wanted: str | None, task: Task) -> tuple[str, Model]:
    """The model of a name or alias, or the configuration's first one for the task. Raises `MotetError` (not_found)."""
    able = {name: model for name, model in models.items() if model.task == task}
    for name, model in able.items():
        if wanted is None or wanted == name or wanted in model.aliases:
            return name, model
    cause = f"There is no {task} model" + ("." if wanted is None else f" {wanted!r}.")
    remedy = f"Models: {', '.join(able)}." if able else "Add one to the models of the configuration."
    raise fail("not_found", cause, remedy)


def load_model(app: AppConfig, wanted: str | None, task: Task) -> LoadedModel:
    """Loads a model on the first of its placements that works here. Raises `MotetError` that says why none does."""
    name, model = find_model(app.models, wanted, task)
    reasons = []
    for placement in model.placements:
        started = time.perf_counter()
        try:
            engine = load_engine(name, model.on(placement), placement.hardware)
        except Exception as error:
            reasons.append(f"on {placement.hardware.kind}, {reason_of(error)}")
            continue
        return LoadedModel(name, model, placement.hardware.kind, engine, time.perf_counter() - started)
    raise fail("unavailable", f"The model {name!r} does not load here: {'; '.join(reasons)}", "See also: motet doctor")


def load_engine(name: str, model: Model, hardware: HardwareClass) -> Any:
    """The model's engine with its weights, on all the cores that this process may use: it has no neighbours here."""
    keep_freed_memory()
    folder = str(sources.folder_of(sources.parse(model.source), model.sha256)) if model.source else ""
    return registry.load(model.engine, EngineSpec(name, folder, hardware.device, usable_cores(), model.options))


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reason_of(error: Exception) -> str:
    """A Motet error in its own words; any other with its type."""
    return str(error) if isinstance(error, MotetError) else f"{type(error).__name__}: {error}"


# --- Files


@dataclass(frozen=True, slots=True)
class Output:
    """An open file, and whether its beginning can be written once more."""

    file: BinaryIO
    rewritable: bool


@contextmanager
def output(path: Path) -> Iterator[Output]:
    """Where a result goes. A file appears, or changes, only when all of it is there; `-` is standard output."""
    if path == STDOUT:
        yield Output(sys.stdout.buffer, rewritable=False)
        sys.stdout.buffer.flush()
    elif path.exists() and not path.is_file():
        with _opened(path, "wb", path) as file:  # a device or a pipe, which nothing may replace
            yield Output(file, rewritable=False)
    else:
        yield from _replacing(path)


def _replacing(path: Path) -> Iterator[Output]:
    whole = path.resolve()  # a link stays, and what it points to changes
    part = whole.with_name(f".{whole.name}.{secrets.token_hex(4)}.part")
    file = _opened(part, "xb", path)
    try:
        with file:
            yield Output(file, rewritable=True)
        part.replace(whole)
    finally:
        part.unlink(missing_ok=True)


def _opened(path: Path, mode: Literal["wb", "xb"], wanted: Path) -> BinaryIO:
    try:
        return path.open(mode)
    except OSError as error:
        cause = f"{wanted} cannot be written: {error.strerror}."
        raise fail("invalid", cause, "Name another place with -o.") from error


class SoundWriter:
    """Encodes one sound into an open file."""

    def __init__(self, to: Output, form: AudioFormat, sample_rate: int, channels: int) -> None:
        self._to = to
        self._layout = (form, sample_rate, channels)
        self._encoder = open_encoder(form, sample_rate, channels)
        self._samples = 0

    @property
    def seconds(self) -> float:
        """Audio written so far."""
        return self._samples / self._layout[1]

    def write(self, samples: Samples) -> None:
        """Takes the next samples, (n,) or (channels, n)."""
        self._samples += samples.shape[-1]
        self._to.file.write(self._encoder.encode(samples))
        if not self._to.rewritable:
            self._to.file.flush()  # somebody may be listening

    def finish(self) -> None:
        """Ends the sound, and puts its length into the header where the format has a place for it."""
        self._to.file.write(self._encoder.finish())
        if self._to.rewritable:
            self._to.file.seek(0)
            self._to.file.write(self._header())

    def close(self) -> None:
        """Frees the codec."""
        self._encoder.close()

    def _header(self) -> bytes:
        form, sample_rate, channels = self._layout
        with closing(open_encoder(form, sample_rate, channels, total_samples=self._samples)) as encoder:
            return encoder.encode(np.zeros((channels, 0), np.float32))


@contextmanager
def sound_file(path: Path, form: AudioFormat, sample_rate: int, channels: int) -> Iterator[SoundWriter]:
    """A sound that is written as it is made. See `output`."""
    with output(path) as to, closing(SoundWriter(to, form, sample_rate, channels)) as writer:
        yield writer
        writer.finish()


def format_of(path: Path) -> AudioFormat | None:
    """The format that a file's suffix stands for."""
    suffix = path.suffix.lower().lstrip(".")
    return next((form for form, info in FORMATS.items() if info.extension == suffix), None)


# --- Speech


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


# --- Transcription


@dataclass(frozen=True, slots=True)
class Asked:
    """What decides a transcript's contents, as a request to the service would say it."""

    temperature: float
    timestamp_granularities: Sequence[str]


def hear(
    recording: bytes, options: RecognitionOptions, loaded: LoadedModel, windows: Windows
) -> Iterator[TranscriptWindow]:
    """The transcript of each window as soon as it is there."""
    rate = loaded.engine.traits.sample_rate
    for window, transcript in transcribe_here(recording, options, loaded.engine, windows):
        yield TranscriptWindow(transcript, window.start + len(window.samples) / rate)


# --- Separation


@dataclass(frozen=True, slots=True)
class SeparationOrder:
    """What to take out of a recording; None is the configuration's number, and no `stems` are all of them."""

    stems: tuple[str, ...]
    chunk_seconds: float | None
    overlap_seconds: float | None


@dataclass(frozen=True, slots=True)
class Separated:
    """What was written and how long it took. Wall counts as in `Spoken`."""

    outputs: tuple[str, ...]
    model: str
    hardware: str
    sample_rate: int
    audio_seconds: float
    load_seconds: float
    wall_seconds: float
    times_real_time: float
    """Audio separated per second of work after the model was loaded."""


def separate(
    recording: BinaryIO,
    order: SeparationOrder,
    app: AppConfig,
    wanted: str | None,
    folder: Path,
    form: AudioFormat,
    progress: Progress,
    started: float,
) -> Separated:
    """Writes each stem to `folder`, chunk by chunk, in the memory of a few chunks. `started` is as in `say`."""
    loaded = load_model(app, wanted, "separation")
    working = time.perf_counter()
    stems = _stems(order.stems, loaded)
    paths = {stem: folder / f"{stem}.{FORMATS[form].extension}" for stem in stems}
    size = _size(recording)
    with ExitStack() as opened:
        decoder = opened.enter_context(
            closing(AudioDecoder(recording, mono=False, max_seconds=app.separation.max_audio_seconds))
        )
        rate = rate_for(decoder.info.sample_rate, loaded.engine.traits.sample_rates)
        plan = _plan(order, app.separation, rate)
        _make(folder)
        channels = decoder.info.channels
        writers = {s: opened.enter_context(sound_file(path, form, rate, channels)) for s, path in paths.items()}
        mergers = {stem: OverlapAdder(plan) for stem in stems}
        for chunk in chunks_of(decoder, plan, rate):
            parts = _separated(chunk, rate, loaded.engine)
            for stem in stems:
                writers[stem].write(mergers[stem].push(chunk.index, parts[stem], chunk.last))
            if size:
                progress(recording.tell(), size)
    ended = time.perf_counter()
    seconds = writers[stems[0]].seconds
    return Separated(
        outputs=tuple(map(str, paths.values())),
        model=loaded.name,
        hardware=loaded.hardware,
        sample_rate=rate,
        audio_seconds=seconds,
        load_seconds=loaded.load_seconds,
        wall_seconds=ended - started,
        times_real_time=seconds / (ended - working),
    )


def _stems(wanted: tuple[str, ...], loaded: LoadedModel) -> tuple[str, ...]:
    offered: tuple[str, ...] = loaded.engine.traits.stems
    if unknown := [stem for stem in wanted if stem not in offered]:
        cause = f"The model {loaded.name!r} has no stem {unknown[0]!r}."
        raise fail("invalid", cause, f"Its stems: {', '.join(offered)}.", param="stems")
    return tuple(dict.fromkeys(wanted)) or offered


def _plan(order: SeparationOrder, settings: Separation, rate: int) -> ChunkPlan:
    chunk = settings.chunk_seconds if order.chunk_seconds is None else order.chunk_seconds
    usual = usual_overlap_seconds(settings, chunk)
    return plan_chunks(chunk, usual if order.overlap_seconds is None else order.overlap_seconds, rate)


def _separated(chunk: PlannedChunk, rate: int, engine: SeparationEngine) -> Mapping[str, Samples]:
    result = engine.separate([Chunk(chunk.samples, rate, chunk.index)])[0]
    if isinstance(result, Exception):
        raise result
    return result.stems


def _size(file: BinaryIO) -> int:
    """Bytes in a file, or 0 where nobody knows."""
    if not file.seekable():
        return 0
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cause = f"{folder} cannot be made: {error.strerror}."
        raise fail("invalid", cause, "Name another folder with -o.") from error
