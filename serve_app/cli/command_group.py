"""The commands of `motet`. It registers them; the module of one is imported when that one is called.

Each command is a function `name` in `serve_app/cli/name.py`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS: Mapping[str, str] = {
    "say": "Speak a text into a file, or to standard output.",
    "transcribe": "Write down what is said in recordings.",
    "separate": "Separate a recording into one file for each stem, in constant memory.",
    "revoice": "Speak the words of a recording with another voice, at its pauses.",
    "enhance": "Take the noise out of a recording, in constant memory.",
    "voices": "List voices, store a clip as a voice, or delete one.",
    "models": "List models and what could be added, add one or remove it, or load one into a running service and unload it.",
    "bulk": "Render a whole data set.",
    "serve": "Serve the OpenAI-compatible API in the foreground, until Ctrl-C.",
    "top": "Watch a running service: placements, queues, batches, first sound, CPU, memory, jobs and errors.",
    "jobs": "List the jobs of a running service, wait for one, and fetch its result.",
    "wyoming": "Offer a running service to Home Assistant, over the Wyoming protocol, until Ctrl-C.",
    "keys": "Make an API key: print it once, and the lines of the configuration that make it known.",
    "deploy": "Put the service on the cluster at RAY_ADDRESS, or update the one there, and leave it running.",
    "join": "Make this machine part of a cluster, until Ctrl-C.",
    "api": "Print the description of the API as OpenAPI, which a running service answers at /openapi.json.",
    "metrics": "Print every metric that a service exports, or the dashboard and the alerts for them.",
    "config": "Print every setting, its default, unit and meaning; or check a file and print its values.",
    "commands": "Print every command with its arguments and options.",
    "plan": "Simulate a service with its own policies: first sound, refusals, replicas, machines and cost.",
    "doctor": "Check what works on this machine, and print what to run for what does not.",
    "quantize": "Make a model smaller, and measure what that costs: size, memory, speed and word errors.",
    "bench": "Measure this machine.",
}
"""Every command and the first line of its help, which would take long to import for a list."""


class LazyGroup(TyperGroup):
    """Lists commands without importing them."""

    def __init__(self, **attributes: Any) -> None:
        listed = {name: TyperCommand(name, help=summary) for name, summary in COMMANDS.items()}
        super().__init__(**{**attributes, "commands": listed})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is called, imported."""
        _, listed, rest = super().resolve_command(ctx, args)
        command = command_of(str(listed.name)) if listed else None
        return command and command.name, command, rest


def command_of(name: str) -> Any:
    """A command with its options."""
    function = getattr(importlib.import_module(f"serve_app.cli.{name}"), name)
    only = typer.Typer(rich_markup_mode="rich", add_completion=False)
    only.command(name)(function)
    return typer.main.get_command(only)


app = typer.Typer(
    name="motet",
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Try it: [bold]motet say 'Hello there.' -o hello.wav[/bold], then [bold]motet transcribe hello.wav[/bold].",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"motet {version('motet')}")
        raise typer.Exit


@app.callback()
def _motet(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Speech from text, text from speech, and stems from a mix, on whatever hardware is here."""
