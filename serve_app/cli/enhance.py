"""`motet enhance`: a recording without its noise."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from deployments.audio.formats import AudioFormat
from serve_app.cli.options import AsJson, Config, ModelName, Quiet, Recording, config_path
from serve_app.cli.sound_target import sound_target
from serve_app.cli.terminal import opened, pace, progress_bar, report


def enhance(
    file: Recording,
    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            show_default="enhanced.wav, or enhanced.<format>",
            help="Where the speech goes; its suffix is the format. [bold]-[/bold] is standard output.",
        ),
    ] = None,
    form: Annotated[
        AudioFormat | None,
        typer.Option("--format", "-f", show_default="the suffix of -o, or wav", help="How to encode."),
    ] = None,
    model: ModelName = None,
    config: Config = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Take the noise out of a recording, in constant memory.

    Example: [bold]motet enhance noisy.mp3 -o clean.flac[/bold]
    """
    started = time.perf_counter()
    form, path = sound_target(out, form, "enhanced", as_json=as_json)
    from serve_app import config_file
    from serve_app.cli import local_enhancement

    settings = config_file.read_app(config_path(config))
    with progress_bar("Enhancing", quiet=quiet) as progress, opened(file) as source:
        done = local_enhancement.enhance(source, settings, model, path, form, progress, started)
    report(f"{done.outputs[0]} ({done.sample_rate} Hz): {pace(done)}.", done if as_json else None, quiet=quiet)
