"""`motet bulk`: a whole data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from cluster.bulk.failed_rows import FILE as FAILED_FILE
from cluster.bulk.inputs import Split
from cluster.bulk.settings import Layout
from cluster.bulk.transcripts import TranscriptForm
from cluster.hardware import Kind
from deployments.audio.formats import AudioFormat
from deployments.engines.registry import Task
from serve_app.cli.options import (
    AsJson,
    Config,
    Language,
    Lexicon,
    Loudness,
    ModelName,
    Normalize,
    Quiet,
    SampleRate,
    ServiceUrl,
    Speed,
    Verify,
    VoiceName,
    config_path,
    language_code,
    lexicon_of,
    rule_changes,
    stem_names,
)
from serve_app.cli.terminal import note, report

if TYPE_CHECKING:
    from cluster.bulk.run import JobSummary

SOME_ROWS_FAILED = 3
"""The exit status of a job with complete output in which some rows have errors."""
BulkFormat = Literal[AudioFormat, TranscriptForm]


Inputs = Annotated[
    list[Path],
    typer.Argument(
        metavar="INPUT...",
        help="Rows: JSONL, CSV, TSV or Parquet with [bold]text[/bold] (and optionally id, voice, input_type: text or ssml),"
        " plain text, EPUB. For recordings: audio files, folders of them, or tables with [bold]path[/bold] or"
        " [bold]audio[/bold].",
    ),
]

OutputFolder = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where everything is written.")]
TaskName = Annotated[Task, typer.Option("--task", "-t", help="What is done with each row.")]
Form = Annotated[
    BulkFormat | None,
    typer.Option(
        "--format",
        "-f",
        show_default="wav, or txt for transcripts",
        help="How to encode audio, or how to write transcripts: txt, srt, vtt or json.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Another seed is another take of every row.")]
Prompt = Annotated[str | None, typer.Option(help="Names and spellings that occur in recordings.")]
Words = Annotated[bool, typer.Option("--words", help="Time each word of a transcript or of speech.")]
Stems = Annotated[str | None, typer.Option(show_default="all", help="Stems to keep, separated by commas.")]
HardwareKind = Annotated[Kind | None, typer.Option(show_default="the model's first", help="Where it runs.")]
LayoutName = Annotated[
    Layout, typer.Option(help="folder: a file for each row, and manifest.jsonl. parquet: tables with the audio inside.")
]
SplitName = Annotated[Split, typer.Option(help="What is a row of plain text; empty lines separate paragraphs.")]
Workers = Annotated[
    int | None, typer.Option(min=1, show_default="as many as fit", help="Engines that run at the same time.")
]


def bulk(
    inputs: Inputs,
    out: OutputFolder,
    task: TaskName = "speech",
    layout: LayoutName = "folder",
    form: Form = None,
    sample_rate: SampleRate = None,
    loudness: Loudness = None,
    voice: VoiceName = None,
    speed: Speed = 1.0,
    seed: Seed = 0,
    split: SplitName = "line",
    lexicon: Lexicon = [],  # noqa: B006
    normalize: Normalize = None,
    verify: Verify = False,
    language: Language = None,
    prompt: Prompt = None,
    words: Words = False,
    stems: Stems = None,
    model: ModelName = None,
    hardware: HardwareKind = None,
    workers: Workers = None,
    service: ServiceUrl = None,
    config: Config = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Render a whole data set. Interrupt it at any time; run the command again to resume. The output is byte-identical.

    The other columns of a table are kept. Exit status 3 if rows failed: the output is complete, and failed.jsonl has the
    rows that failed, each with its error.

    Example: [bold]motet bulk lines.jsonl -o spoken/[/bold]

    Example: [bold]motet bulk book.epub -o book/ -f opus[/bold]

    Example: [bold]motet bulk book.epub -o book/ --verify[/bold]

    Example: [bold]motet bulk recordings/ -o subtitles/ --task transcription -f srt[/bold]
    """
    jobs = _bulk_jobs()
    from serve_app import config_file

    sound = {**_forms(task, form, layout), "sample_rate": sample_rate, "loudness_lufs": loudness}
    manner = {"voice": voice, "speed": speed, "seed": seed, "verify": verify}
    read = {"lexicon": lexicon_of(lexicon), "normalize": rule_changes(normalize)}
    heard = {"language": language_code(language), "prompt": prompt, "word_times": words}
    options = jobs.BulkOptions(**sound, **manner, **read, **heard, stems=stem_names(stems or ""))
    place: dict[str, Any] = {"model": model, "hardware": hardware, "workers": workers, "split": split}
    app = config_file.read_app(config_path(config))
    done = _run(jobs, service, out, (inputs, task, out, layout, options, app), place, quiet=quiet)
    report(f"{out}: {_in_words(done)}", done if as_json else None, quiet=quiet)
    if done.failed:
        note(_failures_in_words(done, out))
        raise typer.Exit(SOME_ROWS_FAILED)


def _forms(task: Task, form: BulkFormat | None, layout: Layout) -> dict[str, Any]:
    """The format of the sound or of the transcripts. Refuses one that the task does not write."""
    if form is None:
        return {}
    if task == "transcription" and layout == "parquet":
        raise typer.BadParameter("Tables have the text inside. Leave it out, or use --layout folder.", param_hint="-f")
    known = get_args(TranscriptForm if task == "transcription" else AudioFormat)
    if form not in known:
        raise typer.BadParameter(f"{form} does not apply to {task}. Use {', '.join(known)}.", param_hint="-f")
    return {"written" if task == "transcription" else "form": form}


def _bulk_jobs() -> Any:
    """`serve_app.bulk`, which imports Ray."""
    from serve_app.profiles import ray_environment

    # Before Ray is imported. Its core would print a false alarm about Ray Data's own actors.
    os.environ.update(ray_environment(os.environ) | {"RAY_BACKEND_LOG_LEVEL": "fatal"})
    from serve_app import bulk

    return bulk


def _run(
    jobs: Any, url: str | None, out: Path, job: tuple[Any, ...], place: dict[str, Any], *, quiet: bool
) -> JobSummary:
    from cluster.bulk.service_rendering import ServiceClient
    from serve_app.cli.bulk_progress import bulk_progress
    from serve_app.cli.interruption import one_interruption

    service = ServiceClient(url, os.environ.get("MOTET_API_KEY")) if url else None
    try:
        with one_interruption(), bulk_progress(quiet=quiet) as progress:
            done: JobSummary = jobs.run(*job, **place, service=service, progress=progress)
            return done
    except KeyboardInterrupt:
        note(f"motet: stopped. The same command resumes the job in {out}.")
        raise


def _failures_in_words(done: JobSummary, out: Path) -> str:
    lines = [f"  {failure.id}: {failure.error}" for failure in done.failures]
    more = done.failed - len(lines)
    every = f"  and {more} more; all of them are" if more else "  They are"
    return "\n".join(["These rows failed:", *lines, f"{every} in {out / FAILED_FILE}."])


def _long(seconds: float) -> str:
    """A duration in the unit in which a person would say it."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def _in_words(done: JobSummary) -> str:
    failed = f", {done.failed} of them with an error" if done.failed else ""
    stopped = f", {done.stopped} in which the model had to be stopped (finish_reason)" if done.stopped else ""
    faulty = f", {done.faulty} with a piece that has a fault (quality)" if done.faulty else ""
    made = f"{_long(done.seconds)} of audio, {_long(done.made_seconds)} of it made now"
    return f"{done.rows} rows{failed}{stopped}{faulty}; {made}; {len(done.files)} files."
