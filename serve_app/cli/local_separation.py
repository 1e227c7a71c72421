"""Separation in this process: one file for each stem, and a picture of them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from deployments.audio.formats import FORMATS, AudioFormat
from deployments.engines.protocols import SeparationTraits
from deployments.errors import fail
from deployments.settings import SeparationSettings
from deployments.tasks.separation import OdeMethod, SeparationTask, ensure_takes, separate_here
from serve_app.cli.local import (
    LoadedModel,
    Output,
    Progress,
    SoundWriter,
    load_model,
    make_folder,
    output,
    recording_size,
    sound_file,
)
from serve_app.cli.separation_picture import INPUT, SeparationPicture, WithInput
from serve_app.config import AppConfig


@dataclass(frozen=True, slots=True)
class SeparationChoices:
    """How to separate a recording. For None the configuration's value is used; empty `stems` means all of them."""

    stems: tuple[str, ...]
    chunk_seconds: float | None
    overlap_seconds: float | None
    description: str | None = None
    ode_method: OdeMethod | None = None
    ode_step_size: float | None = None

    def task(self, settings: SeparationSettings, traits: SeparationTraits, model: str) -> SeparationTask:
        """The task for the driver, with the configuration's values. Raises `MotetError` for what the model does not take."""
        task = SeparationTask.for_model(traits, settings, self.chunk_seconds, self.overlap_seconds)
        task = replace(task, description=self.description, ode_method=self.ode_method, ode_step_size=self.ode_step_size)
        ensure_takes(task, traits, model)
        return task


@dataclass(frozen=True, slots=True)
class SeparationReport:
    """What was written, and how long it took. Wall time counts from the start of the command."""

    outputs: tuple[str, ...]
    model: str
    hardware: str
    sample_rate: int
    audio_seconds: float
    load_seconds: float
    wall_seconds: float
    times_real_time: float
    """Seconds of audio separated per second of work after the model was loaded."""


def separate(
    recording: BinaryIO,
    choices: SeparationChoices,
    app: AppConfig,
    wanted: str | None,
    folder: Path,
    form: AudioFormat,
    progress: Progress,
    started: float,
    *,
    overwrite: bool = False,
    picture: Path | None = None,
) -> SeparationReport:
    """Writes each stem to `folder`, chunk by chunk, in the memory of a few chunks, and a `picture` of them. `started` is when
    the command did, by `time.perf_counter`. Raises `MotetError` (invalid) if one of the files is there already, unless they
    are to `overwrite`."""
    drawn = SeparationPicture() if picture else None
    loaded = load_model(app, wanted, "separation")
    working = time.perf_counter()
    stems = _stems(choices.stems, loaded)
    paths = {stem: folder / f"{stem}.{FORMATS[form].extension}" for stem in stems}
    outputs = [*paths.values(), *([picture] if picture else [])]
    if not overwrite:
        _refuse_existing(outputs)
    size = recording_size(recording)
    task = choices.task(app.separation, loaded.engine.traits, loaded.name)
    engine = WithInput(loaded.engine) if drawn else loaded.engine
    writers: dict[str, SoundWriter] = {}
    png: Output | None = None
    rate = 0
    with ExitStack() as opened:
        for merged in separate_here(recording, task, engine, app.separation.max_audio_s):
            for stem, path in paths.items():
                samples = merged.stems[stem]
                if stem not in writers:
                    make_folder(folder)
                    rate = merged.sample_rate
                    writers[stem] = opened.enter_context(sound_file(path, form, rate, len(samples)))
                writers[stem].write(samples)
            if drawn and picture:
                png = png or opened.enter_context(output(picture))  # early, so that a wrong place is known soon
                drawn.push({name: merged.stems[name] for name in (INPUT, *stems)}, rate)
            if size:
                progress(recording.tell(), size)
        if drawn and png:
            drawn.save(png.file)
    ended = time.perf_counter()
    seconds = writers[stems[0]].seconds
    return SeparationReport(
        outputs=tuple(map(str, outputs)),
        model=loaded.name,
        hardware=loaded.hardware,
        sample_rate=rate,
        audio_seconds=seconds,
        load_seconds=loaded.load_seconds,
        wall_seconds=ended - started,
        times_real_time=seconds / (ended - working),
    )


def _refuse_existing(paths: Iterable[Path]) -> None:
    if there := next((path for path in paths if path.exists()), None):
        remedy = "Name another folder with -o, or add --overwrite."
        raise fail("invalid", f"{there} is there already.", remedy, code="would_overwrite")


def _stems(wanted: tuple[str, ...], loaded: LoadedModel) -> tuple[str, ...]:
    offered: tuple[str, ...] = loaded.engine.traits.stems
    if unknown := [stem for stem in wanted if stem not in offered]:
        cause = f"The model {loaded.name!r} has no stem {unknown[0]!r}."
        raise fail("invalid", cause, f"Its stems: {', '.join(offered)}.", param="stems")
    return tuple(dict.fromkeys(wanted)) or offered
