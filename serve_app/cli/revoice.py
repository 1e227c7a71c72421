"""`motet revoice`: the words of a recording in another voice."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from deployments.audio.formats import AudioFormat
from serve_app.cli.options import (
    STDIO,
    AsJson,
    Config,
    Language,
    Loudness,
    ModelName,
    Quiet,
    Recording,
    SampleRate,
    VoiceName,
    config_path,
    language_code,
)
from serve_app.cli.sound_target import sound_target
from serve_app.cli.terminal import note, opened, pace, progress_bar, report

Ear = Annotated[str | None, typer.Option("--transcription-model", show_default="the first", help="Who hears it.")]
Separator = Annotated[
    str | None, typer.Option("--separation-model", show_default="the first", help="What finds the background.")
]
Background = Annotated[
    Literal["keep", "drop"], typer.Option("--background", help="Whether what is behind the speech stays.")
]
MaxSpeed = Annotated[
    float | None,
    typer.Option("--max-speed", min=1.0, max=2.0, show_default="1.4", help="How much faster a phrase may be spoken."),
]


def revoice(
    file: Recording,
    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            show_default="revoiced.wav, or revoiced.<format>",
            help="Where the sound goes; its suffix is the format. [bold]-[/bold] is standard output.",
        ),
    ] = None,
    form: Annotated[
        AudioFormat | None,
        typer.Option("--format", "-f", show_default="the suffix of -o, or wav", help="How to encode."),
    ] = None,
    voice: VoiceName = None,
    model: ModelName = None,
    translate: Annotated[bool, typer.Option("--translate", help="Speak English, whatever is said.")] = False,
    background: Background = "drop",
    language: Language = None,
    max_speed: MaxSpeed = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same samples.")] = 0,
    sample_rate: SampleRate = None,
    loudness: Loudness = None,
    transcription_model: Ear = None,
    separation_model: Separator = None,
    config: Config = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Speak the words of a recording with another voice, at its pauses.

    Example: [bold]motet revoice talk.wav --voice heart -o out.wav[/bold]

    Example: [bold]motet revoice rede.mp3 --translate --background keep -o speech.mp3[/bold]
    """
    started = time.perf_counter()
    if background == "keep" and file == STDIO:
        raise typer.BadParameter("keep reads the recording twice. Name a file.", param_hint="--background")
    code = language_code(language)
    form, path = sound_target(out, form, "revoiced", as_json=as_json)
    from serve_app import config_file
    from serve_app.cli.local_revoicing import RevoicingChoices, revoice_recording
    from serve_app.cli.local_speech import SoundChoices

    choices = RevoicingChoices(
        voice, model, transcription_model, separation_model, code, translate, background == "keep", max_speed, seed
    )
    settings = config_file.read_app(config_path(config))
    sound = SoundChoices(path, form, sample_rate, loudness)
    with (
        progress_bar("Revoicing", quiet=quiet) as progress,
        opened(file) as source,
        opened(file) if choices.keep_background else nullcontext() as again,
    ):
        done = revoice_recording(source, again, settings, choices, sound, progress, started)
    fit = f"{done.phrases} phrases, at most {done.max_speed:.2f} times as fast and {done.max_drift_seconds:.2f} s late"
    report(f"{done.output} ({done.sample_rate} Hz): {pace(done)}; {fit}.", done if as_json else None, quiet=quiet)
    if done.unspoken_phrases:
        note(f"Warning: the voice could not say {done.unspoken_phrases} of them. They are silent.")
