"""`motet jobs`: the jobs of a running service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from serve_app.cli.options import STDIO

Action = Literal["list", "show", "wait", "cancel", "result"]


def jobs(
    action: Annotated[Action, typer.Argument(help="What to do.")] = "list",
    job: Annotated[
        str | None, typer.Argument(metavar="ID", show_default=False, help="Which job; list needs none.")
    ] = None,
    service: Annotated[
        str, typer.Option(metavar="URL", help="The service. MOTET_API_KEY is its key.")
    ] = "http://127.0.0.1:8000",
    out: Annotated[
        Path, typer.Option("--output", "-o", help="result: where it goes; [bold]-[/bold] is standard output.")
    ] = STDIO,
) -> None:
    """List the jobs of a running service, wait for one, and fetch its result.

    `cancel` also deletes the job. `wait` ends with status 1 if the job failed.

    Example: [bold]motet jobs wait job_0123 && motet jobs result job_0123 -o talk.srt[/bold]
    """
    from serve_app.cli.job_service import JobService
    from serve_app.cli.terminal import note

    if action != "list" and job is None:
        raise typer.BadParameter(f"{action} needs the id of a job; motet jobs list shows them.", param_hint="ID")
    with JobService(service) as found:
        if action == "list":
            print("\n".join(found.listed()) or "No jobs.")
            return
        assert job is not None
        if action == "show":
            print(found.shown(job))
        elif action == "wait":
            raise typer.Exit(0 if found.waited(job, note) else 1)
        elif action == "cancel":
            found.cancel(job)
            note(f"{job} is cancelled and deleted.")
        else:
            found.write_result(job, out)
