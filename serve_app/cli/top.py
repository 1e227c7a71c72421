"""`motet top`: a running service in the terminal, live."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from deployments.errors import MotetError

if TYPE_CHECKING:
    from serve_app.cli.service_api import ServiceApi


def top(
    service: Annotated[
        str, typer.Option(metavar="URL", help="The service. MOTET_API_KEY is its key.")
    ] = "http://127.0.0.1:8000",
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="URL", show_default="80 above the service's port", help="The Prometheus metrics of the machine."
        ),
    ] = None,
    every: Annotated[float, typer.Option("--every", min=0.5, max=60.0, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print it once and leave.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: print the facts as JSON.")] = False,
) -> None:
    """Watch a running service: placements, queues, batches, first sound, CPU, memory, jobs and errors.

    It ends with Ctrl-C.

    Example: [bold]motet top --service http://127.0.0.1:8000[/bold]

    Example: [bold]motet top --once --json | jq '.placements[] | {name, first_p95_ms}'[/bold]
    """
    from serve_app.cli.service_api import ServiceApi
    from serve_app.cli.top_metrics import metrics_url

    if as_json and not once:
        raise typer.BadParameter("it needs --once.", param_hint="--json")
    with ServiceApi(service) as found:
        address = metrics or metrics_url(service)
        if once:
            print_once(found, service, address, as_json=as_json)
        else:
            watch(found, service, address, every)


def print_once(found: ServiceApi, url: str, metrics: str, *, as_json: bool) -> None:
    """Prints one look at a service. Raises `MotetError` if it does not answer or refuses."""
    from rich.console import Console

    from serve_app.cli.terminal import show_facts
    from serve_app.cli.top_screen import screen
    from serve_app.cli.top_view import answers_of, view_of

    answers = answers_of(found, metrics, time.monotonic())
    with found.understood():
        view = view_of(answers)
    if as_json:
        show_facts(asdict(view))
        return
    console = Console()
    console.print(screen(view, url, console.width))


def watch(found: ServiceApi, url: str, metrics: str, every_s: float) -> None:
    """Shows a service until Ctrl-C, also while it is away. Raises `MotetError` if it does not answer at the beginning."""
    from rich.console import Console
    from rich.live import Live

    from serve_app.cli.top_screen import screen, unreachable
    from serve_app.cli.top_view import answers_of, view_of

    console = Console()
    before = answers_of(found, metrics, time.monotonic())
    with Live(console=console, screen=True, auto_refresh=False) as live:
        latest = None
        while True:
            try:
                answers = answers_of(found, metrics, time.monotonic())
                with found.understood():
                    shown = screen(view_of(answers, latest or before), url, console.width)
                latest = answers
            except MotetError as error:
                shown = unreachable(url, str(error))
            live.update(shown, refresh=True)
            time.sleep(every_s)
