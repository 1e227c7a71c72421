"""The engines in this process, without a cluster: what the command line runs on."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from cluster.hardware import HardwareClass
from cluster.models import Model
from deployments.audio.chunking import ChunkPlan, PlannedChunk, plan_chunks
from deployments.audio.decode import AudioDecoder
from deployments.audio.encode import FORMATS, AudioFormat, open_encoder
from deployments.audio.overlap_add import OverlapAdder
from deployments.audio.resample import rate_for
from deployments.engines import registry, sources
from deployments.engines.protocols import (
    Chunk,
    EngineSpec,
    RecognitionOptions,
    Samples,
    SeparationEngine,
)
from deployments.engines.registry import Task
from deployments.errors import MotetError, fail
from deployments.replica.malloc_trim import keep_freed_memory
from deployments.settings import SeparationSettings, WindowSettings
from deployments.tasks.separation import chunks_of, usual_overlap_seconds
from deployments.tasks.transcription import TranscriptWindow, transcribe_here
from serve_app.config import AppConfig

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


# --- Transcription


@dataclass(frozen=True, slots=True)
class Asked:
    """What decides a transcript's contents, as a request to the service would say it."""

    temperature: float
    timestamp_granularities: Sequence[str]


def hear(
    recording: bytes, options: RecognitionOptions, loaded: LoadedModel, windows: WindowSettings
) -> Iterator[TranscriptWindow]:
    """The transcript of each window as soon as it is there."""
    rate = loaded.engine.traits.sample_rate
    for window, transcript in transcribe_here(recording, options, loaded.engine, windows):
        yield TranscriptWindow(transcript, window.start + len(window.samples) / rate)


# --- SeparationSettings


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
            closing(AudioDecoder(recording, mono=False, max_seconds=app.separation.max_audio_s))
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


def _plan(order: SeparationOrder, settings: SeparationSettings, rate: int) -> ChunkPlan:
    chunk = settings.chunk_s if order.chunk_seconds is None else order.chunk_seconds
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
