"""`motet bench`: measurements of this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer


def bench(
    name: Annotated[
        str | None, typer.Argument(show_default=False, help="A benchmark; without one, they are listed.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions, for a first look.")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="Compare all variants, also with --quick.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there as JSON.")
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option(show_default=False, help="hearing, chaos: only these parts, such as speed,replicas."),
    ] = None,
    model: Annotated[str | None, typer.Option(show_default=False, help="voices: which model.")] = None,
    soak_minutes: Annotated[
        float | None, typer.Option(show_default=False, help="voices: load for this long, and how memory grows.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(show_default=False, help="soak: load for this long.")] = None,
    streams: Annotated[
        str | None, typer.Option(show_default=False, help="voices: how many, such as 1,8,32 (not every model).")
    ] = None,
    captured: Annotated[
        Literal["on", "off"] | None,
        typer.Option(show_default=False, help="voices: captured steps (not every model)."),
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"] | None,
        typer.Option(show_default=False, help="voices: where it runs (not every model)."),
    ] = None,
) -> None:
    """Measure this machine.

    Example: [bold]motet bench first-sound --quick[/bold]
    """
    from serve_app.bench.catalogue import BENCHMARKS, run

    if name is None:
        width = max(map(len, BENCHMARKS))
        print("\n".join(f"{known:<{width}}  {BENCHMARKS[known].summary}" for known in BENCHMARKS))
        return
    given = {
        "compare": compare or None,
        "parts": tuple(part.strip() for part in parts.split(",")) if parts else None,
        "model": model,
        "soak_minutes": soak_minutes,
        "minutes": minutes,
        "streams": _counts(streams) if streams else None,
        "captured": captured and captured == "on",
        "device": device,
    }
    options = {option: value for option, value in given.items() if value is not None}
    raise typer.Exit(run(name, quick=quick, json_file=json_file, **options))


def _counts(text: str) -> tuple[int, ...]:
    """Numbers of streams, such as 1,8,32."""
    if not re.fullmatch(r"[1-9]\d{0,2}(,[1-9]\d{0,2})*", text):
        raise typer.BadParameter(f"{text!r} is not a list of numbers. Write 1,8,32.", param_hint="--streams")
    return tuple(map(int, text.split(",")))
