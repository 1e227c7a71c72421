"""`motet serve`: the service in the foreground, in a program of its own.

Ray Serve reads its profile from the environment when it is imported, so the environment is set first and the program is new.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from deployments.errors import fail
from serve_app import config_file, profiles
from serve_app.cli.options import ServiceConfig, service_config_path
from serve_app.cli.serve_process import END_SIGNALS, end_processes_of
from serve_app.edge import tls
from serve_app.edge.settings import TlsSettings
from serve_app.profiles import Profile


def serve(
    config: ServiceConfig = None,
    profile: Annotated[
        Profile | None,
        typer.Option(
            show_default="throughput on Linux, else plain",
            help="throughput: an HAProxy front and gRPC between deployments. plain: Ray Serve as it comes.",
        ),
    ] = None,
) -> None:
    """Serve the OpenAI-compatible API in the foreground, until Ctrl-C.

    Example: [bold]motet serve --config serve_config.yaml[/bold]

    MOTET_HOST and MOTET_PORT override the file's address.
    """
    raise typer.Exit(serve_in_new_program(service_config_path(config), profile or profiles.default_profile()))


def serve_in_new_program(path: Path, profile: profiles.Profile) -> int:
    """Runs the service with the profile's environment; returns its exit status. Signals reach it directly."""
    with tempfile.TemporaryDirectory(prefix=profiles.FOLDER_PREFIX, dir=profiles.folder_for_sockets()) as folder:
        address = config_file.address_of(path)
        profile = profiles.fitting(profile, address.host)
        profiles.write_haproxy_program(Path(folder))
        edge = config_file.edge_of_file(path)
        if edge.tls is not None:
            _check_tls(edge.tls, profile)
        wanted = profiles.environment(profile, Path(folder), address.port, os.environ, edge, address.host)
        environment = {**os.environ, **wanted}
        # In a session of its own: Ctrl-C in a terminal would end Ray's processes before we can ask them to leave.
        command = [sys.executable, "-m", "serve_app.cli.serve_process", str(path), str(os.getpid())]
        try:
            with _signals_for_program() as pass_signals_to:
                program = subprocess.Popen(command, env=environment, start_new_session=True)
                pass_signals_to(program)
                return collect_until_end(program)
        finally:
            end_processes_of(folder)


def _check_tls(settings: TlsSettings, profile: Profile) -> None:
    """Raises `MotetError` (invalid)."""
    if profile != "throughput":
        remedy = "Use --profile throughput on Linux, or a proxy in front (docs/security.md)."
        raise fail("invalid", f"edge.tls needs HAProxy, which the profile {profile} does not have.", remedy)
    tls.check(settings)


def collect_until_end(program: subprocess.Popen[bytes]) -> int:
    """Waits for the program; returns its exit status. As the first process of a container this one becomes the parent of all
    that lose theirs, such as the one that watched a replaced HAProxy: collects each that ends, which would stay a zombie."""
    while True:
        pid, status = os.wait()
        if pid == program.pid:
            program.returncode = os.waitstatus_to_exitcode(status)
            return program.returncode


@contextmanager
def _signals_for_program() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Ctrl-C and `kill` are meant for a program that is about to be started: gives what is to be called with it, which
    sends it those that came before, too. Its end is noticed even if whoever started this process ignores SIGCHLD."""
    program: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def send(number: int, _: object) -> None:
        if program is None:
            early.append(number)
        elif program.returncode is None:
            with suppress(ProcessLookupError):  # it was collected a moment ago
                # `send_signal` would collect one that has just ended, for which somebody waits.
                os.kill(program.pid, number)

    def pass_to(started: subprocess.Popen[bytes]) -> None:
        nonlocal program
        program = started
        while early:
            send(early.pop(0), None)

    kept = {number: signal.signal(number, send) for number in END_SIGNALS}
    kept[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield pass_to
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
