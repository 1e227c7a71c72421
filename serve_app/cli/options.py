"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deployments.errors import MotetError, fail
from deployments.text.languages import checked_code

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
ModelName = Annotated[
    str | None, typer.Option("--model", "-m", show_default="the first that fits", help="A model's name or alias.")
]
Recording = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        callback=_existing,
        help="A recording: WAV, FLAC, MP3, OGG, M4A, AAC or WebM; [bold]-[/bold] reads standard input.",
    ),
]
VoiceName = Annotated[str | None, typer.Option("--voice", "-v", show_default="the model's", help="Who speaks.")]
Speed = Annotated[
    float, typer.Option("--speed", "-s", min=0.25, max=4.0, help="Times the voice's own pace, at the same pitch.")
]
Language = Annotated[
    str | None,
    typer.Option("--language", "-l", show_default="detected", help="Of recordings: en, en-US, english ..."),
]
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


def language_code(language: str | None) -> str | None:
    """The code of a language in any of the ways that requests may write it: `en`, `en-US`, `english`, `eng`."""
    try:
        return checked_code(language)
    except MotetError as error:
        raise typer.BadParameter(str(error.failure), param_hint="--language") from error
