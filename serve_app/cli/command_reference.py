"""docs/commands.md: every command with its arguments and options, from their declarations."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from serve_app.cli.command_group import COMMANDS, command_of
from serve_app.cli.schema_tables import table

INTRODUCTION = """\
# Commands

`motet commands > docs/commands.md` made this page from the declarations of the commands; a test holds it current.
`motet --help` lists them, and `motet say --help` shows one.

Exit status: 0 success, 1 failure, 2 wrong call, 3 some rows of `motet bulk` failed, 130 Ctrl-C. Results go to standard
output, progress and warnings to standard error.
"""
BOLD = re.compile(r"\[bold\](.*?)\[/bold\]", re.DOTALL)
TYPES = {Path: "path", int: "integer", float: "number"}


def markdown() -> str:
    """The text of `docs/commands.md`."""
    lines = [INTRODUCTION]
    for name in COMMANDS:
        lines += _command(name)
    return "\n".join(lines).rstrip() + "\n"


def _command(name: str) -> Iterator[str]:
    command = command_of(name)
    yield f"## motet {name}"
    yield ""
    for paragraph in re.split(r"\n\s*\n", command.help or ""):
        yield _plain(paragraph)
        yield ""
    parameters = [each for each in command.params if not each.hidden]
    arguments = [each for each in parameters if each.param_type_name == "argument"]
    options = [each for each in parameters if each.param_type_name == "option"]
    yield from table(("argument", "default", "meaning"), map(_argument, arguments))
    yield from table(("option", "value", "default", "meaning"), map(_option, options))


def _argument(parameter: Any) -> list[str]:
    name = parameter.metavar or parameter.name.upper()
    return [f"`{name}`", "required" if parameter.required else _default(parameter), _plain(parameter.help or "")]


def _option(parameter: Any) -> list[str]:
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    return [names, _value(parameter), _default(parameter), _plain(parameter.help or "")]


def _value(parameter: Any) -> str:
    """What an option accepts."""
    if parameter.is_flag:
        return ""
    annotation = parameter.type_descriptor.annotation
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    value = f"`{parameter.metavar}`" if parameter.metavar else TYPES.get(annotation, "text")
    least, most = parameter.min, parameter.max
    if least is not None and most is not None:
        value += f" from {least} to {most}"
    elif least is not None:
        value += f" of at least {least}"
    return value + (", may be repeated" if parameter.multiple else "")


def _default(parameter: Any) -> str:
    shown = parameter.show_default
    if isinstance(shown, str):
        return _plain(shown)
    default = parameter.default
    if shown is False or default is None or default in ("", False) or default in ([], ()):
        return ""
    return f"`{default}`"


def _plain(text: str) -> str:
    """Help for a terminal as Markdown."""
    parts = BOLD.split(" ".join(text.split()))  # every second one was bold
    return "".join(f"`{part}`" if at % 2 else part.replace("<", "&lt;") for at, part in enumerate(parts))
