"""Where a command writes its one sound, and in which format."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from deployments.audio.formats import FORMATS, AudioFormat, format_of
from serve_app.cli.options import STDIO


def sound_target(
    out: Path | None, form: AudioFormat | None, default_name: str, *, as_json: bool
) -> tuple[AudioFormat, Path]:
    """The format and the file of `-o` and `--format`; without `-o`, `default_name` with the format's suffix. Raises
    `typer.BadParameter` for what contradicts itself."""
    if as_json and out == STDIO:
        raise typer.BadParameter("goes to standard output, and so does -o -. Name a file with -o.", param_hint="--json")
    if out is None:
        return form or "wav", Path(f"{default_name}.{FORMATS[form or 'wav'].extension}")
    if out == STDIO:
        if sys.stdout.isatty():
            raise typer.BadParameter("would write audio to the terminal. Pipe it, or name a file.", param_hint="-o -")
        return form or "wav", out
    form = form or format_of(out.suffix)
    if form is None:
        known = ", ".join(dict.fromkeys(f".{info.extension}" for info in FORMATS.values()))
        raise typer.BadParameter(f"{out.name!r} has none of the suffixes {known}. Add --format.", param_hint="-o")
    return form, out
