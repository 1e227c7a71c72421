"""Transcribes recordings with an engine in this process. Windows of several recordings share its batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO

from deployments.audio.channels import Channels
from deployments.engines.protocols import RecognitionOptions, RecognitionTraits
from deployments.engines.recognition import check_options
from deployments.settings import WindowSettings
from deployments.tasks.diarization import SpeakerTask, rttm
from deployments.tasks.engine_calls import LocalBatch, run_here
from deployments.tasks.transcription import (
    TranscriptionTask,
    TranscriptWindow,
    seconds_of,
    task_for,
    transcribe_all,
)
from deployments.text.sentences import joined
from serve_app.cli import local
from serve_app.cli.terminal import note
from serve_app.cli.transcription_files import LazyFile, RecordingFile, TranscriptSources, made_from_another
from serve_app.config import AppConfig
from serve_app.gateway.transcript_formats import TranscriptContents, rendered, speaker_turns, verbose

STREAMED_WINDOWS = 4
"""Windows of a batch whose text is shown: with more, the model is faster, but text comes later and in larger parts."""
BytesDone = Callable[[int, int], None]
"""Called with the bytes that were read of all recordings, and with their total."""


@dataclass(frozen=True, slots=True)
class TranscriptionOrder:
    """How recordings are transcribed, and what is written. Without a `SpeakerTask` nobody asks who speaks."""

    options: RecognitionOptions
    contents: TranscriptContents
    channels: Channels = "mix"
    speakers: SpeakerTask | None = None


@dataclass(frozen=True, slots=True)
class TranscriptionJob:
    """An order with the model that does it."""

    loaded: local.LoadedModel
    task: TranscriptionTask
    windows: WindowSettings
    contents: TranscriptContents

    def transcripts(
        self, sources: Sequence[Any], width: int | None = None
    ) -> Iterator[tuple[int, TranscriptWindow | Exception]]:
        """Windows of the sources in order, each with its source's number. At most `width` share a batch, by default as many
        as the model takes at once."""
        engine = self.loaded.engine
        calls = LocalBatch(engine.transcribe)
        most = width or engine.traits.batch_windows
        return run_here(transcribe_all(sources, self.task, self.windows, calls.start, most))


def load_job(order: TranscriptionOrder, app: AppConfig, model: str | None) -> TranscriptionJob:
    """Loads the model, by default the configuration's first one. Raises `MotetError` for what the model cannot do."""
    loaded = local.load_model(app, model, "transcription")
    traits: RecognitionTraits = loaded.engine.traits
    check_options(order.options, traits, f"The model {loaded.name!r}")
    task = replace(task_for(traits, order.options), channels=order.channels, speakers=order.speakers)
    return TranscriptionJob(loaded, task, app.windows, order.contents)


def transcribe_stream(job: TranscriptionJob, source: Any, name: str, file: BinaryIO) -> float:
    """Writes the transcript of the recording `name`, text as it is recognized. Returns its length in seconds.

    Raises what ends the recording.
    """
    as_it_comes = job.contents.form == "text"
    found = list[TranscriptWindow]()
    last = ""
    for _, window in job.transcripts([source], STREAMED_WINDOWS if as_it_comes else None):
        if isinstance(window, Exception):
            raise window
        found.append(window)
        if as_it_comes and window.text:
            file.write(joined([last, window.text])[len(last) :].encode())
            file.flush()
            last = window.text[-1]
    file.write(b"\n" if as_it_comes else file_of(found, job.contents, name))
    return seconds_of(found)


def file_of(windows: Sequence[TranscriptWindow], contents: TranscriptContents, name: str) -> bytes:
    """The transcript of the recording `name` as a file: what a response of the service has in its body, and a line end. The
    service does not know the name, which RTTM has in every line."""
    if contents.form == "rttm":
        return rttm(speaker_turns(windows), name).encode()
    body = bytes(rendered(windows, contents).body)
    return body if body.endswith(b"\n") else body + b"\n"


@dataclass(slots=True)
class FileResults:
    """Writes what became of recordings: to their files, as lines of JSON to standard output, or both."""

    contents: TranscriptContents
    folder: Path | None
    to_lines: bool
    quiet: bool = False
    """Whether only errors are reported."""
    seconds: float = 0.0
    """Length of the recordings that were transcribed."""
    written: int = 0
    skipped: int = 0
    failed: list[RecordingFile] = field(default_factory=list)

    def without_those_there(self, recordings: Sequence[RecordingFile], overwrite: bool) -> list[RecordingFile]:
        """The recordings that have no file yet; with `overwrite` all. A file is complete when it is there. One that was made
        from another recording is not touched: the recording fails."""
        if self.folder is None or overwrite:
            return list(recordings)
        left, sources = list[RecordingFile](), TranscriptSources.read(self.folder)
        for recording in recordings:
            if recording.output.exists() and (other := sources.other_than(recording)):
                self.fail(recording, made_from_another(recording, other))
            elif recording.output.exists():
                self.skipped += 1
                self._line(recording, {"output": str(recording.output), "skipped": True})
            else:
                left.append(recording)
        return left

    def fail(self, recording: RecordingFile, error: Exception) -> None:
        """It has no transcript."""
        self.failed.append(recording)
        note(f"motet: {recording.path}: {local.reason_of(error)}")
        self._line(recording, {"error": local.reason_of(error)})

    def write(self, recording: RecordingFile, windows: Sequence[TranscriptWindow]) -> None:
        """It was transcribed. Its file appears as a whole."""
        self.written += 1
        self.seconds += (seconds := seconds_of(windows))
        if self.folder:
            local.make_folder(recording.output.parent)
            with local.output(recording.output) as to:
                to.file.write(file_of(windows, self.contents, recording.path.stem))
            TranscriptSources.note(self.folder, recording)
            if not self.quiet:
                note(f"{recording.output}: {seconds:.2f} s of audio.")
        output = {"output": str(recording.output)} if self.folder else {}
        self._line(recording, output | verbose(windows, self.contents))

    def _line(self, recording: RecordingFile, facts: dict[str, Any]) -> None:
        if self.to_lines:
            print(json.dumps({"file": str(recording.path), **facts}, ensure_ascii=False), flush=True)


def transcribe_files(
    job: TranscriptionJob, recordings: Sequence[RecordingFile], results: FileResults, progress: BytesDone
) -> None:
    """Transcribes all recordings. One that fails does not stop the others."""
    sources = _sources(recordings, progress)
    for number, items in groupby(job.transcripts(sources), key=itemgetter(0)):
        windows = [window for _, window in items]
        sources[number].close()
        if isinstance(windows[-1], Exception):
            results.fail(recordings[number], windows[-1])
        else:
            results.write(recordings[number], [each for each in windows if isinstance(each, TranscriptWindow)])


def _sources(recordings: Sequence[RecordingFile], progress: BytesDone) -> list[LazyFile]:
    sizes = [recording.size for recording in recordings]
    before, total = [0, *accumulate(sizes)], sum(sizes)

    def source(number: int) -> LazyFile:
        return LazyFile(recordings[number].path, lambda read: progress(before[number] + read, total))

    return [source(number) for number in range(len(recordings))]
