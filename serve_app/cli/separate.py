"""`motet separate`: stems from a mix."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from deployments.audio.formats import AudioFormat
from deployments.tasks.separation import LEAST_ODE_STEP, MOST_ODE_STEP, OdeMethod
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
    description: Annotated[
        str | None, typer.Option(help="The sound to take out, for a model that takes a description.")
    ] = None,
    ode_method: Annotated[
        OdeMethod | None, typer.Option(show_default="the model's", help="For a model that solves an equation.")
    ] = None,
    ode_step_size: Annotated[
        float | None,
        typer.Option(
            min=LEAST_ODE_STEP, max=MOST_ODE_STEP, show_default="the model's", help="It takes 1 / step size steps."
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where spectrograms of the recording and its stems are drawn, as PNG."),
    ] = None,
    overwrite: Overwrite = False,
    config: Config = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Separate a recording into one file for each stem, in constant memory.

    Example: [bold]motet separate noisy.mp3 -o clean/ --stems speech --picture clean/stems.png[/bold]
    """
    started = time.perf_counter()
    from serve_app import config_file
    from serve_app.cli import local_separation as local

    names = stem_names(",".join(stems or ()))
    choices = local.SeparationChoices(names, chunk_seconds, overlap_seconds, description, ode_method, ode_step_size)
    settings = config_file.read_app(config_path(config))
    with progress_bar("Separating", quiet=quiet) as progress, opened(file) as source:
        done = local.separate(
            source, choices, settings, model, out, form, progress, started, overwrite=overwrite, picture=picture
        )
    report(f"{', '.join(done.outputs)} ({done.sample_rate} Hz): {pace(done)}.", done if as_json else None, quiet=quiet)
