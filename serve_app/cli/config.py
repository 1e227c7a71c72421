"""`motet config`: every setting, and the values of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
import yaml


def config(
    file: Annotated[
        Path | None, typer.Argument(show_default=False, help="A serve_config.yaml to check; without one, all settings.")
    ] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the settings as docs/configuration.md.")
    ] = False,
) -> None:
    """Print every setting, its default, unit and meaning; or check a file and print its values.

    Example: [bold]motet config | less[/bold]

    Example: [bold]motet config serve_config.yaml[/bold] lists every mistake, or prints the values with all defaults.
    """
    if file is not None:
        print(values_of(file), end="")
    elif as_markdown:
        from serve_app.cli.settings_reference import markdown

        print(markdown(), end="")
    else:
        _print_tables()


def values_of(file: Path) -> str:
    """The values of a file as YAML, with all defaults. Raises `MotetError` that lists every mistake."""
    from serve_app import config_file

    read = config_file.read(file)
    values = {"http_options": read.http.model_dump(), "args": read.app.model_dump(mode="json")}
    return yaml.safe_dump(values, sort_keys=False)


def _print_tables() -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from serve_app.cli.settings_reference import sections

    console = Console()
    for section in sections():
        console.print(Text(section.path, style="bold"), Text(f"  {section.meaning}\n", style="dim"))
        if section.settings:
            table = Table("setting", "default", "unit", "accepted", "meaning", box=None, pad_edge=False)
            for setting in section.settings:
                row = (setting.key, setting.default, setting.unit, setting.bounds, setting.meaning)
                table.add_row(*map(Text, row))
            console.print(table, "")
