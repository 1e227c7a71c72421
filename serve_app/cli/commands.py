"""`motet commands`: all commands on one page."""

from __future__ import annotations


def commands() -> None:
    """Print every command with its arguments and options.

    The output is docs/commands.md.

    Example: [bold]motet commands | less[/bold]
    """
    from serve_app.cli.command_reference import markdown

    print(markdown(), end="")
