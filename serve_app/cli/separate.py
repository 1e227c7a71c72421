"""`motet separate`: stems from a mix."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from deployments.audio.formats import AudioFormat
from serve_app.cli.options import AsJson, Config, ModelName, Overwrite, Quiet, Recording, config_path, stem_names
from serve_app.cli.terminal import opened, pace, progress_bar, report


def separate(
    file: Recording,
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where <stem>.<format> is written for each stem.")
    ] = Path("stems"),
    form: Annotated[AudioFormat, typer.Option("--format", "-f", help="How to encode.")] = "wav",
    stems: Annotated[
        list[str] | None, typer.Option(show_default="all", help="A stem to write; repeat it, or list them with commas.")
    ] = None,
    model: ModelName = None,
    chunk_seconds: Annotated[
        float | None, typer.Option(min=0.1, show_default="10", help="Seconds of audio separated at once.")
    ] = None,
    overlap_seconds: Annotated[
        float | None, typer.Option(min=0.0, show_default="30 % of a chunk", help="Seconds faded into the next chunk.")
    ] = None,
    overwrite: Overwrite = False,
    config: Config = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Separate a recording into one file for each stem, in constant memory.

    Example: [bold]motet separate noisy.mp3 -o clean/ --stems speech[/bold]
    """
    started = time.perf_counter()
    from serve_app import config_file
    from serve_app.cli import local

    choices = local.SeparationChoices(stem_names(",".join(stems or ())), chunk_seconds, overlap_seconds)
    settings = config_file.read_app(config_path(config))
    with progress_bar("Separating", quiet=quiet) as progress, opened(file) as source:
        done = local.separate(source, choices, settings, model, out, form, progress, started, overwrite=overwrite)
    report(f"{', '.join(done.outputs)} ({done.sample_rate} Hz): {pace(done)}.", done if as_json else None, quiet=quiet)
