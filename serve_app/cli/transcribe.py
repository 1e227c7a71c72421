"""`motet transcribe`: text from speech."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from deployments.audio.channels import Channels
from deployments.engines.protocols import RecognitionOptions
from deployments.errors import MotetError
from deployments.tasks.diarization import MOST_SPEAKERS, SpeakerTask
from serve_app.cli.options import STDIO, Config, Language, ModelName, Overwrite, Quiet, config_path, language_code
from serve_app.cli.terminal import note, opened, progress_bar
from serve_app.cli.transcription_files import (
    SUFFIXES,
    LazyFile,
    RecordingFile,
    WrittenFormat,
    recordings_in,
    written_format,
)
from serve_app.cli.transcription_job import (
    BytesDone,
    FileResults,
    TranscriptionJob,
    TranscriptionOrder,
    load_job,
    transcribe_files,
    transcribe_stream,
)
from serve_app.config import AppConfig
from serve_app.gateway.transcript_formats import (
    SPEAKER_FORMATS,
    TIMED_FORMATS,
    TranscriptContents,
    TranscriptFormat,
)

SOME_FAILED = 1
"""The exit status after some recordings failed."""


def _existing(paths: list[Path]) -> list[Path]:
    """Refuses what is not there, and standard input beside files. (Typer's own check does not accept `-`.)"""
    for path in paths:
        if path == STDIO and len(paths) > 1:
            raise typer.BadParameter("Standard input (-) cannot be combined with files.")
        if path != STDIO and not path.exists():
            raise typer.BadParameter(f"There is no file {str(path)!r}.")
    return paths


Recordings = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE",
        callback=_existing,
        help="Recordings: WAV, FLAC, MP3, OGG, M4A, AAC or WebM, or folders of them; [bold]-[/bold] reads standard input.",
    ),
]
Form = Annotated[
    WrittenFormat | None,
    typer.Option("--format", "-f", show_default="the suffix of -o, or text", help="What is written."),
]
Output = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE or FOLDER/",
        show_default="standard output",
        help="Where the transcript goes; its suffix is the format. For several recordings, or with a slash at its end: a"
        " folder with a transcript of each, which skips those that are there.",
    ),
]
Translate = Annotated[bool, typer.Option("--translate", help="Write English, whatever is spoken.")]
Keywords = Annotated[str | None, typer.Option(help="Names and words that may occur, separated by commas.")]
Words = Annotated[bool, typer.Option("--words", help="The time of each word; with --format verbose_json, or --json.")]
Diarize = Annotated[bool, typer.Option("--diarize", help="Say who speaks; with a format that has times.")]
Speakers = Annotated[
    int | None,
    typer.Option(
        min=1, max=MOST_SPEAKERS, show_default="found", help="How many speakers there are; implies --diarize."
    ),
]
EachChannel = Annotated[Channels, typer.Option(help="Of stereo recordings: one mix of both, or each as a speaker.")]
JsonLines = Annotated[
    bool, typer.Option("--json", help="Print a line of JSON for each recording, with its text and segments.")
]


def transcribe(
    files: Recordings,
    form: Form = None,
    output: Output = "-",
    overwrite: Overwrite = False,
    language: Language = None,
    translate: Translate = False,
    prompt: Annotated[str | None, typer.Option(help="Text that may come before, to guide the model.")] = None,
    keywords: Keywords = None,
    words: Words = False,
    diarize: Diarize = False,
    speakers: Speakers = None,
    channels: EachChannel = "mix",
    model: ModelName = None,
    config: Config = None,
    as_json: JsonLines = False,
    quiet: Quiet = False,
) -> None:
    """Write down what is said in recordings. Text appears as it is recognized.

    In a folder, recordings that have a transcript are skipped, so the same command resumes after an interruption. A recording
    that fails does not stop the others; the exit status is 1 then.

    Example: [bold]motet transcribe talk.mp3 -o talk.srt[/bold]

    Example: [bold]motet transcribe recordings/ *.mp3 --format srt -o subtitles/[/bold]

    Example: [bold]motet say "Hello." -o - | motet transcribe -[/bold]
    """
    started = time.perf_counter()
    from serve_app import config_file

    out, folder = _target(output, files)
    written = _format(form, out)
    timed = written in TIMED_FORMATS or as_json
    diarize = diarize or speakers is not None
    _check(written, words and not as_json, diarize and not timed, diarize and channels == "separate")
    diarize = channels == "mix" and (diarize or written in SPEAKER_FORMATS)
    recordings = _recordings(files, folder, out, written, as_json)
    app = config_file.read_app(config_path(config))
    contents = TranscriptContents(
        written, "translate" if translate else "transcribe", words=words, subtitles=app.subtitles
    )
    options = RecognitionOptions(
        language_code(language), prompt or None, _listed(keywords), translate=translate, word_times=words or timed
    )
    order = TranscriptionOrder(options, contents, channels, SpeakerTask(speakers=speakers) if diarize else None)
    if recordings is None:
        _transcribe_one(order, app, model, files[0], out, started, quiet=quiet)
    else:
        _transcribe_many(order, app, model, recordings, started, folder, as_json, overwrite, quiet=quiet)


def _target(output: str, files: Sequence[Path]) -> tuple[Path, Path | None]:
    """The file, and the folder if it is one: for several recordings, if it exists, or by the slash at its end."""
    path, several = Path(output), len(files) > 1 or files[0].is_dir()
    is_folder = path.is_dir() or output.endswith(os.sep)
    if several and not is_folder and path.suffix in SUFFIXES.values():
        raise typer.BadParameter("Several recordings need a folder. Add -o FOLDER/ and --format.", param_hint="-o")
    return (STDIO, path) if path != STDIO and (several or is_folder) else (path, None)


def _format(form: WrittenFormat | None, out: Path) -> TranscriptFormat:
    try:
        return written_format(form, out)
    except MotetError as error:
        raise typer.BadParameter(str(error), param_hint="-o") from error


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def _check(form: TranscriptFormat, needs_words: bool, needs_times: bool, two_kinds_of_speakers: bool) -> None:
    """Refuses options that the format has no place for."""
    if needs_words and form != "verbose_json":
        cause = f"does not apply to {form}. Add --format verbose_json, or --json."
        raise typer.BadParameter(cause, param_hint="--words")
    if needs_times:
        cause = f"does not apply to {form}. Use --format {', '.join(TIMED_FORMATS)}, or --json."
        raise typer.BadParameter(cause, param_hint="--diarize")
    if two_kinds_of_speakers:
        raise typer.BadParameter("With --channels separate each channel is a speaker.", param_hint="--diarize")


def _recordings(
    files: list[Path], folder: Path | None, out: Path, written: TranscriptFormat, as_json: bool
) -> list[RecordingFile] | None:
    """The recordings; None for a single one whose transcript goes to one place."""
    if files == [STDIO] and (folder is not None or as_json):
        raise typer.BadParameter("Standard input (-) has no name; write it with -o.", param_hint="FILE")
    if folder is None and not as_json:
        if len(files) == 1 and not files[0].is_dir():
            return None
        raise typer.BadParameter("Several recordings need a folder. Add -o FOLDER/, or --json.", param_hint="-o")
    if out != STDIO:
        raise typer.BadParameter("--json prints to standard output. Name a folder: -o FOLDER/.", param_hint="-o")
    return recordings_in(files, folder, written)


def _transcribe_one(
    order: TranscriptionOrder, app: AppConfig, model: str | None, file: Path, out: Path, started: float, *, quiet: bool
) -> None:
    from serve_app.cli import local

    job = load_job(order, app, model)
    shows_text = out == STDIO  # a bar on the same terminal would take its lines
    bar = progress_bar(file.name, quiet=quiet or shows_text)
    with bar as progress, _source(file, progress) as source, local.output(out) as to:
        seconds = transcribe_stream(job, source, file.stem, to.file)
    if not quiet:
        note(f"{'' if shows_text else f'{out}: '}{_pace(seconds, job, started)}")


def _source(file: Path, progress: BytesDone) -> AbstractContextManager[Any]:
    """The recording, with progress in bytes if it is a file."""
    if not file.is_file():
        return opened(file)
    size = file.stat().st_size
    return closing(LazyFile(file, lambda read: progress(read, size)))


def _transcribe_many(
    order: TranscriptionOrder,
    app: AppConfig,
    model: str | None,
    recordings: Sequence[RecordingFile],
    started: float,
    folder: Path | None,
    to_lines: bool,
    overwrite: bool,
    *,
    quiet: bool,
) -> None:
    results = FileResults(order.contents, folder, to_lines, quiet)
    wanted = results.without_those_there(recordings, overwrite)
    if not wanted and not results.failed:
        if not quiet:
            note("Every recording has its transcript. Add --overwrite to make them again.")
        return
    if not wanted:
        _end_failed(results)
    job = load_job(order, app, model)
    try:
        with progress_bar(f"{len(wanted)} recordings", quiet=quiet or to_lines) as progress:
            transcribe_files(job, wanted, results, progress)
    except KeyboardInterrupt:
        if folder:
            note("motet: stopped. The same command goes on with the recordings that have no transcript.")
        raise
    skipped = f", {results.skipped} already there" if results.skipped else ""
    failed = f", {len(results.failed)} failed" if results.failed else ""
    if not quiet:
        note(f"{_transcripts(results.written)}{skipped}{failed}; {_pace(results.seconds, job, started)}")
    if results.failed:
        _end_failed(results)


def _end_failed(results: FileResults) -> NoReturn:
    note("".join(["These recordings have no transcript:", *(f"\n  {each.path}" for each in results.failed)]))
    raise typer.Exit(SOME_FAILED)


def _transcripts(number: int) -> str:
    return "1 transcript" if number == 1 else f"{number} transcripts"


def _pace(seconds: float, job: TranscriptionJob, started: float) -> str:
    wall, loaded = time.perf_counter() - started, job.loaded
    pace = seconds / max(wall - loaded.load_seconds, 1e-9)
    return (
        f"{seconds:.2f} s of audio in {wall:.2f} s: {loaded.name} loaded in {loaded.load_seconds:.2f} s on "
        f"{loaded.hardware}, then {pace:.1f} times real time."
    )
