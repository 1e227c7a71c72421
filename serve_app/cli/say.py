"""`motet say`: speech from text."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from deployments.audio.formats import FORMATS, AudioFormat, format_of
from serve_app.cli.options import STDIO, AsJson, Config, ModelName, Speed, VoiceName, config_path
from serve_app.cli.terminal import note, pace, progress_bar, report, standard_input


def say(
    text: Annotated[
        str | None, typer.Argument(show_default="standard input", help="The text; [bold]-[/bold] reads standard input.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            show_default="speech.wav, or speech.<format>",
            help="Where the audio goes; its suffix is the format. [bold]-[/bold] is standard output.",
        ),
    ] = None,
    form: Annotated[
        AudioFormat | None,
        typer.Option("--format", "-f", show_default="the suffix of -o, or wav", help="How to encode."),
    ] = None,
    voice: VoiceName = None,
    model: ModelName = None,
    speed: Speed = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same samples.")] = 0,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Speak a text into a file, or to standard output.

    Example: [bold]motet say "Hello there." -o hello.mp3[/bold]

    Example: [bold]motet say -o book.opus < book.txt[/bold]

    Example: [bold]motet say "Hello." -o - | aplay[/bold]

    Text on standard input is spoken while it is still being written:

    Example: [bold]llm "Tell me a story." | motet say -o - | aplay[/bold]
    """
    started = time.perf_counter()
    form, path = _target(out, form)
    if as_json and path == STDIO:
        raise typer.BadParameter("goes to standard output, and so does -o -. Name a file with -o.", param_hint="--json")
    from serve_app import config_file
    from serve_app.cli import local_speech

    app = config_file.read_app(config_path(config))
    words = _text(text, app.speech.arrival.pause_s)
    with progress_bar("Speaking") as progress:
        done = local_speech.say(
            words, app, path, form, progress, started, model=model, voice=voice, speed=speed, seed=seed
        )
    target = "standard output" if path == STDIO else path
    first_sound = f"first sound after {done.first_sound_seconds:.2f} s"
    report(f"{target}: {pace(done)}; {first_sound}.", done if as_json else None)
    if done.finish_reason != "stop":
        note(
            f"Warning: the model did not end by itself ({done.finish_reason}) and was stopped: words may be missing. "
            "Listen to it, and try another --seed."
        )


def _target(out: Path | None, form: AudioFormat | None) -> tuple[AudioFormat, Path]:
    if out is None:
        return form or "wav", Path(f"speech.{form or 'wav'}")
    if out == STDIO:
        if sys.stdout.isatty():
            raise typer.BadParameter("would write audio to the terminal. Pipe it, or name a file.", param_hint="-o -")
        return form or "wav", out
    form = form or format_of(out.suffix)
    if form is None:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise typer.BadParameter(f"{out.name!r} has none of the suffixes {known}. Add --format.", param_hint="-o")
    return form, out


def _text(text: str | None, pause_s: float) -> str | Iterator[str | None]:
    """The text, or standard input as it is written."""
    from serve_app.cli import local_speech

    if text not in (None, "-"):
        return str(text)
    file = standard_input()
    if file.isatty():
        note("Type the text; Ctrl-D on a line of its own ends it.")
    return local_speech.read_as_it_comes(file, pause_s)
