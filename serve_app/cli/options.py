"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployments.audio.formats import MAX_LUFS, MAX_SAMPLE_RATE, MIN_LUFS, MIN_SAMPLE_RATE
from deployments.errors import MotetError, fail
from deployments.text.languages import checked_code
from deployments.text.lexicon import parse_entry
from deployments.text.normalization.rules import parsed_changes

if TYPE_CHECKING:
    from serve_app.config import AppConfig

STDIO = Path("-")
DEFAULT_CONFIG = Path("serve_config.yaml")


def _existing(file: Path) -> Path:
    """Refuses what is not a file. (Typer's own check does not accept `-`.)"""
    if file != STDIO and (file.is_dir() or not file.exists()):
        raise typer.BadParameter(f"There is no file {str(file)!r}.")
    return file


def _config_option(default: str, help: str) -> Any:
    return typer.Option(envvar="MOTET_CONFIG", exists=True, dir_okay=False, show_default=default, help=help)


Config = Annotated[
    Path | None,
    _config_option(
        "serve_config.yaml in this folder if there is one, else Motet's own models",
        "The serve_config.yaml whose models and settings are used.",
    ),
]
ServiceConfig = Annotated[
    Path | None, _config_option("serve_config.yaml in this folder", "The serve_config.yaml of the service.")
]


def _config_of(ctx: typer.Context) -> AppConfig | None:
    """The configuration of the command line; None for one that cannot be read: a shell shows no errors."""
    from serve_app import config_file

    try:
        return config_file.read_app(config_path(ctx.params.get("config")))
    except (MotetError, OSError):
        return None


def _complete_model(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    from serve_app.cli.completion import model_names

    config = _config_of(ctx)
    return model_names(config, incomplete) if config else []


def _complete_voice(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    from serve_app.cli.completion import voice_names

    config = _config_of(ctx)
    return voice_names(config, ctx.params.get("model"), incomplete) if config else []


ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        show_default="the first that fits",
        help="A model's name or alias.",
        autocompletion=_complete_model,
    ),
]
Recording = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        callback=_existing,
        help="A recording: WAV, FLAC, MP3, OGG, M4A, AAC or WebM; [bold]-[/bold] reads standard input.",
    ),
]
VoiceName = Annotated[
    str | None,
    typer.Option("--voice", "-v", show_default="the model's", help="Who speaks.", autocompletion=_complete_voice),
]
Speed = Annotated[
    float, typer.Option("--speed", "-s", min=0.25, max=4.0, help="Times the voice's own pace, at the same pitch.")
]
Lexicon = Annotated[
    list[str],
    typer.Option(
        metavar="WORD=READING",
        help="How to say a word: other words, or IPA as in tomato=/təˈmeɪtoʊ/. May be repeated.",
    ),
]
Normalize = Annotated[
    str | None,
    typer.Option(
        metavar="RULES",
        show_default="on",
        help="How numbers, addresses, Markdown and the like are read: on, off, or such as emoji=off,money=off.",
    ),
]
SampleRate = Annotated[
    int | None,
    typer.Option(
        "--sample-rate",
        "-r",
        min=MIN_SAMPLE_RATE,
        max=MAX_SAMPLE_RATE,
        show_default="the model's; 8000 for mulaw and alaw",
        help="Of speech, in Hz.",
    ),
]
Loudness = Annotated[
    float | None,
    typer.Option(
        "--loudness",
        min=MIN_LUFS,
        max=MAX_LUFS,
        metavar="LUFS",
        show_default="speech.loudness_lufs, or as the model makes it",
        help="Bring speech to this loudness, such as -23 (broadcast) or -16 (podcasts).",
    ),
]
Language = Annotated[
    str | None,
    typer.Option("--language", "-l", show_default="detected", help="Of recordings: en, en-US, english ..."),
]
Verify = Annotated[
    bool, typer.Option("--verify", help="Hear each spoken piece, and make it again if other words were heard.")
]
ServiceUrl = Annotated[
    str | None,
    typer.Option("--service", metavar="URL", help="Use this running service instead. MOTET_API_KEY is its key."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there already.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result's facts to standard output as JSON.")]


def config_path(named: Path | None) -> Path | None:
    """The file that was named, or the one in this folder."""
    return named or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)


def service_config_path(named: Path | None) -> Path:
    """The configuration of a service. Raises `MotetError` (not_found) if there is none."""
    path = config_path(named)
    if path is None:
        raise fail(
            "not_found",
            f"There is no {DEFAULT_CONFIG} in {Path.cwd()}.",
            "Go to the folder that has it, or name one: motet serve --config <file>",
        )
    return path


def stem_names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def lexicon_of(entries: Sequence[str]) -> dict[str, str]:
    """The words of `--lexicon` and how to say them."""
    try:
        return dict(map(parse_entry, entries))
    except MotetError as error:
        raise typer.BadParameter(str(error), param_hint="--lexicon") from error


def rule_changes(text: str | None) -> bool | dict[str, bool] | None:
    """The rules that `--normalize` turns on or off."""
    try:
        return None if text is None else parsed_changes(text)
    except MotetError as error:
        raise typer.BadParameter(str(error), param_hint="--normalize") from error


def language_code(language: str | None) -> str | None:
    """The code of a language in any of the ways that requests may write it: `en`, `en-US`, `english`, `eng`."""
    try:
        return checked_code(language)
    except MotetError as error:
        raise typer.BadParameter(str(error), param_hint="--language") from error


CAPTION_SUFFIXES = (".srt", ".vtt")


def _captions_file(path: Path | None) -> Path | None:
    if path is not None and path.suffix.lower() not in CAPTION_SUFFIXES:
        raise typer.BadParameter(f"{path.name!r} ends with neither .srt nor .vtt.")
    return path


Captions = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        callback=_captions_file,
        help="Write subtitles too: a .srt or .vtt file, with the times of the words.",
    ),
]
