"""Runs engines in this process, without a cluster, for the command line."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from cluster.hardware import HardwareClass
from cluster.models import Model, find_model
from deployments.audio.encode import header_of, open_encoder
from deployments.audio.formats import AudioFormat
from deployments.engines import registry, weight_sources
from deployments.engines.protocols import (
    EngineSpec,
    Samples,
)
from deployments.engines.registry import Task
from deployments.errors import MotetError, fail
from deployments.replica.malloc_trim import keep_freed_memory
from serve_app.config import AppConfig

STDOUT = Path("-")

Progress = Callable[[int, int], None]
"""Called with how much is done, and with the whole."""


# --- Models


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in this process, on `hardware` (cpu, cuda or mlx)."""

    name: str
    model: Model
    hardware: str
    engine: Any
    load_seconds: float


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
    source = weight_sources.parse(model.source) if model.source else None
    folder = str(weight_sources.folder_of(source, model.sha256, model.beside)) if source else ""
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
    """Where a result goes. A file appears, or changes, only once it is complete. `-` is standard output."""
    if path == STDOUT:
        yield Output(sys.stdout.buffer, rewritable=False)
        sys.stdout.buffer.flush()
    elif path.exists() and not path.is_file():
        with _opened(path, "wb", path) as file:  # a device or a pipe cannot be replaced
            yield Output(file, rewritable=False)
    else:
        yield from _replacing(path)


def _replacing(path: Path) -> Iterator[Output]:
    whole = path.resolve()  # a link stays, and its target changes
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

    def __init__(
        self, to: Output, form: AudioFormat, source_rate: int, channels: int, sample_rate: int | None = None
    ) -> None:
        self._to = to
        self._format = form
        self._channels = channels
        self._source_rate = source_rate
        self._encoder = open_encoder(form, source_rate, channels, sample_rate=sample_rate)
        self._samples = 0

    @property
    def seconds(self) -> float:
        """Seconds of audio written so far."""
        return self._samples / self._source_rate

    def write(self, samples: Samples) -> None:
        """Takes the next samples, (n,) or (channels, n)."""
        self._samples += samples.shape[-1]
        self._to.file.write(self._encoder.encode(samples))
        if not self._to.rewritable:
            self._to.file.flush()  # a player may be reading the pipe

    def finish(self) -> None:
        """Ends the file, and writes its length into the header where the format has a field for it."""
        self._to.file.write(self._encoder.finish())
        if self._to.rewritable:
            self._to.file.seek(0)
            encoder = self._encoder
            self._to.file.write(header_of(self._format, encoder.sample_rate, self._channels, encoder.written))

    def close(self) -> None:
        """Frees the codec."""
        self._encoder.close()


@contextmanager
def sound_file(
    path: Path, form: AudioFormat, source_rate: int, channels: int, sample_rate: int | None = None
) -> Iterator[SoundWriter]:
    """A sound file that is written while sound at `source_rate` Hz is made. See `output` and `open_encoder`."""
    with output(path) as to, closing(SoundWriter(to, form, source_rate, channels, sample_rate)) as writer:
        yield writer
        writer.finish()


def recording_size(file: BinaryIO) -> int:
    """Bytes in a file; 0 for a pipe."""
    if not file.seekable():
        return 0
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def make_folder(folder: Path) -> None:
    """Makes a folder for output, if it is not there. Raises `MotetError` (invalid) if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cause = f"{folder} cannot be made: {error.strerror}."
        raise fail("invalid", cause, "Name another folder with -o.") from error
