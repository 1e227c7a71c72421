"""`motet bulk`: a whole data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.bulk.inputs import Split
from cluster.bulk.output import Layout
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
    SampleRate,
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
Form = Annotated[AudioFormat, typer.Option("--format", "-f", help="How to encode audio.")]
Seed = Annotated[int, typer.Option(min=0, help="Another seed is another take of every row.")]
Prompt = Annotated[str | None, typer.Option(help="Names and spellings that occur in recordings.")]
Words = Annotated[bool, typer.Option("--words", help="Time each word of a transcript or of speech.")]
Stems = Annotated[str | None, typer.Option(show_default="all", help="Stems to keep, separated by commas.")]
HardwareKind = Annotated[Kind | None, typer.Option(show_default="the model's first", help="Where it runs.")]
LayoutName = Annotated[
    Layout, typer.Option(help="parquet: with the audio inside. folder: one audio file a row, and manifest.jsonl.")
]
SplitName = Annotated[Split, typer.Option(help="What is a row of plain text; empty lines separate paragraphs.")]
Workers = Annotated[
    int | None, typer.Option(min=1, show_default="as many as fit", help="Engines that run at the same time.")
]
ServiceUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="Use a live service instead. MOTET_API_KEY is its key.")
]


def bulk(
    inputs: Inputs,
    out: OutputFolder,
    task: TaskName = "speech",
    layout: LayoutName = "parquet",
    form: Form = "wav",
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
    via_serve: ServiceUrl = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Render a whole data set. Interrupt it at any time; run the command again to resume. The output is byte-identical.

    Exit status 3 if rows failed: the output is complete, and names the error of each.

    Example: [bold]motet bulk lines.jsonl -o spoken/[/bold]

    Example: [bold]motet bulk book.epub -o book/ --layout folder -f opus[/bold]

    Example: [bold]motet bulk book.epub -o book/ --verify[/bold]

    Example: [bold]motet bulk recordings/ -o heard/ --task transcription[/bold]
    """
    jobs = _bulk_jobs()
    from serve_app import config_file

    sound = {"form": form, "sample_rate": sample_rate, "loudness_lufs": loudness}
    manner = {"voice": voice, "speed": speed, "seed": seed, "verify": verify}
    read = {"lexicon": lexicon_of(lexicon), "normalize": rule_changes(normalize)}
    heard = {"language": language_code(language), "prompt": prompt, "word_times": words}
    options = jobs.BulkOptions(**sound, **manner, **read, **heard, stems=stem_names(stems or ""))
    place: dict[str, Any] = {"model": model, "hardware": hardware, "workers": workers, "split": split}
    app = config_file.read_app(config_path(config))
    done = _run(jobs, via_serve, out, (inputs, task, out, layout, options, app), place)
    report(f"{out}: {_in_words(done)}", done if as_json else None)
    if done.failed:
        raise typer.Exit(SOME_ROWS_FAILED)


def _bulk_jobs() -> Any:
    """`serve_app.bulk`, which imports Ray."""
    from serve_app.profiles import ray_environment

    # Before Ray is imported. Its core would print a false alarm about Ray Data's own actors.
    os.environ.update(ray_environment(os.environ) | {"RAY_BACKEND_LOG_LEVEL": "fatal"})
    from serve_app import bulk

    return bulk


def _run(jobs: Any, via_serve: str | None, out: Path, job: tuple[Any, ...], place: dict[str, Any]) -> JobSummary:
    from cluster.bulk.service_rendering import ServiceClient
    from serve_app.cli.bulk_progress import bulk_progress

    service = ServiceClient(via_serve.rstrip("/"), os.environ.get("MOTET_API_KEY")) if via_serve else None
    try:
        with bulk_progress() as progress:
            done: JobSummary = jobs.run(*job, **place, service=service, progress=progress)
            return done
    except KeyboardInterrupt:
        note(f"motet: stopped. The same command resumes the job in {out}.")
        raise


def _in_words(done: JobSummary) -> str:
    failed = f", {done.failed} of them with an error" if done.failed else ""
    stopped = f", {done.stopped} in which the model had to be stopped (finish_reason)" if done.stopped else ""
    faulty = f", {done.faulty} with a piece that has a fault (quality)" if done.faulty else ""
    made = f"{done.seconds / 3600:.2f} h of audio, {done.made_seconds / 3600:.2f} h of it made now"
    return f"{done.rows} rows{failed}{stopped}{faulty}; {made}; {len(done.files)} files."
