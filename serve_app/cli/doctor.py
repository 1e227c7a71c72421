"""`motet doctor`: what works on this machine, and what to run for what does not.

A model counts as working when it was loaded and answered once. No cluster is started, and a hub model that is not on this
disk is not downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from deployments.errors import MotetError
from serve_app import config_file
from serve_app.cli.doctor_cores import auto_threads
from serve_app.cli.doctor_hardware import hardware
from serve_app.cli.doctor_libraries import extras, libraries
from serve_app.cli.doctor_models import model_findings
from serve_app.cli.doctor_service import ffmpeg, haproxy, keys, port, running, scheduling, threads
from serve_app.cli.findings import Finding, healthy, show
from serve_app.cli.options import Config, config_path
from serve_app.config import AppConfig
from serve_app.config_file import HttpAddress

CLOSED = "No port gives others than this machine's users anything without a key or token."
OPEN = "A port is open to the network; see above."


def doctor(
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Check the machines of the cluster at RAY_ADDRESS instead.")
    ] = False,
    doors: Annotated[
        bool,
        typer.Option(
            "--doors",
            help="List the ports of the running service, and what each answers without a key or token, instead.",
        ),
    ] = False,
) -> None:
    """Check what works on this machine, and print what to run for what does not. Exit status 1 if a model does not work.

    Example: [bold]motet doctor --json | jq .ok[/bold]

    Example: [bold]motet doctor --cluster[/bold] says why a replica waits for a machine.

    Example: [bold]motet doctor --doors[/bold] has exit status 1 if a port is open to the network without a key.
    """
    from serve_app.cli import doctor_cluster

    if cluster and doors:
        raise typer.BadParameter("It goes without --cluster.", param_hint="--doors")
    file = config_path(config)
    if doors:
        from serve_app.cli import doctor_doors

        findings = doctor_doors.examine(_configuration(file, os.environ)[1])
        show(findings, as_json=as_json, good=CLOSED, bad=OPEN)
    else:
        findings = doctor_cluster.examine(file) if cluster else examine(file)
        show(findings, as_json=as_json)
    raise typer.Exit(0 if healthy(findings) else 1)


def examine(file: Path | None, environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Looks at everything that the service and the command line need, with the models of a configuration."""
    findings = list(hardware())
    present = {finding.name for finding in findings if finding.state == "ok"}
    app, http, found = _configuration(file, environment)
    findings += [finding for name, model in app.models.items() for finding in model_findings(name, model, present)]
    findings += [
        *libraries(),
        *extras(),
        found,
        port(http),
        keys(http, app.security, app.edge),
        running(http),
        *haproxy(),
        threads(environment),
        scheduling(),
        ffmpeg(),
    ]
    findings += [Finding("service", "cores", "info", str(cores)) for cores in auto_threads(app)]
    return findings


def _configuration(file: Path | None, environment: Mapping[str, str]) -> tuple[AppConfig, HttpAddress, Finding]:
    """The configuration, or the defaults in place of one with mistakes."""
    try:
        if file is not None:
            read = config_file.read(file, environment)
            return read.app, read.http, Finding("service", "configuration", "ok", str(file))
    except MotetError as error:
        found = Finding("service", "configuration", "broken", error.failure.cause, error.failure.remedy)
    except ImportError as error:
        found = Finding("service", "configuration", "broken", f"{file} cannot be checked: {error}", "See ray, above.")
    else:
        found = Finding("service", "configuration", "ok", "Motet's own models; there is no serve_config.yaml here")
    return AppConfig(), HttpAddress(), found
