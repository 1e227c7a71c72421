"""Takes the noise out of a recording in this process, without a cluster, for the command line."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from deployments.audio.formats import AudioFormat
from deployments.errors import fail
from deployments.tasks.enhancement import SPEECH, ensure_enhances
from deployments.tasks.separation import SeparationTask, separate_here
from serve_app.cli.local import Progress, SoundWriter, load_model, recording_size, sound_file
from serve_app.cli.local_separation import SeparationReport
from serve_app.config import AppConfig


def enhance(
    recording: BinaryIO,
    app: AppConfig,
    wanted: str | None,
    path: Path,
    form: AudioFormat,
    progress: Progress,
    started: float,
) -> SeparationReport:
    """Writes the speech of a recording to `path`, chunk by chunk. `started` is when the command did, by
    `time.perf_counter`. Raises `MotetError`."""
    loaded = load_model(app, wanted, "separation")
    ensure_enhances(loaded.name, loaded.engine.traits)
    working, size = time.perf_counter(), recording_size(recording)
    task = SeparationTask.for_model(loaded.engine.traits, app.separation)
    writer: SoundWriter | None = None
    rate = 0
    with ExitStack() as opened:
        for merged in separate_here(recording, task, loaded.engine, app.separation.max_audio_s):
            samples, rate = merged.stems[SPEECH], merged.sample_rate
            if writer is None:
                writer = opened.enter_context(sound_file(path, form, rate, len(samples)))
            writer.write(samples)
            if size:
                progress(recording.tell(), size)
    if writer is None:
        raise fail("invalid", "The recording has no sound.", "Send another one.", param="file")
    return SeparationReport(
        outputs=(str(path),),
        model=loaded.name,
        hardware=loaded.hardware,
        sample_rate=rate,
        audio_seconds=writer.seconds,
        load_seconds=loaded.load_seconds,
        wall_seconds=time.perf_counter() - started,
        times_real_time=writer.seconds / (time.perf_counter() - working),
    )
