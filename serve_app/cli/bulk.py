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
    ModelName,
    Speed,
    VoiceName,
    config_path,
    language_code,
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
        help="Rows: JSONL, CSV, TSV or Parquet with [bold]text[/bold] (and optionally id, voice), plain text, EPUB. For"
        " recordings: audio files, folders of them, or tables with [bold]path[/bold] or [bold]audio[/bold].",
    ),
]


Workers = Annotated[
    int | None, typer.Option(min=1, show_default="as many as fit", help="Engines that run at the same time.")
]
ServiceUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="Use a live service instead. MOTET_API_KEY is its key.")
]


def bulk(
    inputs: Inputs,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where everything is written.")],
    task: Annotated[Task, typer.Option("--task", "-t", help="What is done with each row.")] = "speech",
    layout: Annotated[
        Layout, typer.Option(help="parquet: with the audio inside. folder: one audio file a row, and manifest.jsonl.")
    ] = "parquet",
    form: Annotated[AudioFormat, typer.Option("--format", "-f", help="How to encode audio.")] = "wav",
    voice: VoiceName = None,
    speed: Speed = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another take of every row.")] = 0,
    split: Annotated[
        Split, typer.Option(help="What is a row of plain text; empty lines separate paragraphs.")
    ] = "line",
    language: Language = None,
    prompt: Annotated[str | None, typer.Option(help="Names and spellings that occur in recordings.")] = None,
    words: Annotated[bool, typer.Option("--words", help="Time each word of a transcript.")] = False,
    stems: Annotated[str | None, typer.Option(show_default="all", help="Stems to keep, separated by commas.")] = None,
    model: ModelName = None,
    hardware: Annotated[Kind | None, typer.Option(show_default="the model's first", help="Where it runs.")] = None,
    workers: Workers = None,
    via_serve: ServiceUrl = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Render a whole data set. Interrupt it at any time; run the command again to resume. The output is byte-identical.

    Exit status 3 if rows failed: the output is complete, and names the error of each.

    Example: [bold]motet bulk lines.jsonl -o spoken/[/bold]

    Example: [bold]motet bulk book.epub -o book/ --layout folder -f opus[/bold]

    Example: [bold]motet bulk recordings/ -o heard/ --task transcription[/bold]
    """
    from serve_app.profiles import ray_environment

    # Before Ray is imported. Its core would print a false alarm about Ray Data's own actors.
    os.environ.update(ray_environment(os.environ) | {"RAY_BACKEND_LOG_LEVEL": "fatal"})
    from cluster.bulk.service_rendering import ServiceClient
    from serve_app import bulk as jobs
    from serve_app import config_file
    from serve_app.cli.bulk_progress import bulk_progress

    options = jobs.BulkOptions(
        voice, speed, seed, form, language_code(language), prompt, words, stem_names(stems or "")
    )
    service = ServiceClient(via_serve.rstrip("/"), os.environ.get("MOTET_API_KEY")) if via_serve else None
    app = config_file.read_app(config_path(config))
    place: dict[str, Any] = {"model": model, "hardware": hardware, "workers": workers, "split": split}
    try:
        with bulk_progress() as progress:
            done = jobs.run(inputs, task, out, layout, options, app, **place, service=service, progress=progress)
    except KeyboardInterrupt:
        note(f"motet: stopped. The same command resumes the job in {out}.")
        raise
    report(f"{out}: {_in_words(done)}", done if as_json else None)
    if done.failed:
        raise typer.Exit(SOME_ROWS_FAILED)


def _in_words(done: JobSummary) -> str:
    failed = f", {done.failed} of them with an error" if done.failed else ""
    stopped = f", {done.stopped} in which the model had to be stopped (finish_reason)" if done.stopped else ""
    made = f"{done.seconds / 3600:.2f} h of audio, {done.made_seconds / 3600:.2f} h of it made now"
    return f"{done.rows} rows{failed}{stopped}; {made}; {len(done.files)} files."
