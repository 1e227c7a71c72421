"""`motet keys new NAME`: a new API key, printed once, and the lines of the configuration that make it known."""

from __future__ import annotations

import hashlib
import secrets
from datetime import date, datetime
from typing import Annotated, Literal

import typer
import yaml
from pydantic import TypeAdapter, ValidationError

from serve_app.cli.terminal import note
from serve_app.edge.settings import Keys, KeySettings

PREFIX = "motet_"
"""How keys begin, so that a search for leaked secrets finds them."""
KEY_BYTES = 32


def keys(
    action: Annotated[Literal["new"], typer.Argument(help="new: make a key.")],
    name: Annotated[str, typer.Argument(help="Whose key it is: lower-case letters, digits, dots, - and _.")],
    models: Annotated[
        str | None,
        typer.Option(metavar="MODELS", show_default="all", help="Names of models, such as hibari,whisper-base."),
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(show_default="no limit", help="Requests a minute.")] = None,
    seconds_of_audio_per_minute: Annotated[
        float | None, typer.Option(show_default="no limit", help="Audio made and heard a minute.")
    ] = None,
    expires: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], show_default="never", help="The first day without it, in UTC."),
    ] = None,
    admin: Annotated[
        bool,
        typer.Option("--admin", help="It opens /v1/admin and changes the models of the service, and nothing else."),
    ] = False,
) -> None:
    """Make an API key: print it once, and the lines of the configuration that make it known.

    Standard output has the lines for security.keys or the keys file, with the SHA-256 of the key. Standard error has the key.

    Example: [bold]motet keys new alice --requests-per-minute 60 >> keys.yaml[/bold]
    """
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    fields = {
        "models": models and tuple(each.strip() for each in models.split(",")),
        "requests_per_minute": requests_per_minute,
        "seconds_of_audio_per_minute": seconds_of_audio_per_minute,
        "expires": expires and expires.date(),
        "admin": admin or None,
    }
    print(lines_of(name, key, {field: value for field, value in fields.items() if value is not None}), end="")
    note(f"The key of {name}, which is shown once and kept nowhere: {key}")


def lines_of(name: str, key: str, fields: dict[str, str | int | float | date | tuple[str, ...]]) -> str:
    """The lines of `security.keys` for a key, as YAML. Raises `typer.BadParameter`."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    try:
        known = TypeAdapter(Keys).validate_python({name: KeySettings.model_validate({"sha256": (digest,), **fields})})
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        raise typer.BadParameter(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}.") from error
    plain = {each: settings.model_dump(exclude_unset=True) for each, settings in known.items()}
    listed = {each: {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()} for each, own in plain.items()}
    return str(yaml.safe_dump(listed, sort_keys=False))
