"""The processes of a running service on this machine, by what they do in it."""

from __future__ import annotations

import re
from pathlib import Path

import psutil

from deployments.errors import fail
from serve_app.bench.running_service import RunningProgram
from serve_app.cli import footprint
from serve_app.cli.processes import REPLICA, command_line

CONTROLLER, PROXY_MANAGER = "ray::ServeController", "ray::HAProxyManager"
HAPROXY, RAYLET = "haproxy", "raylet"
SESSION_FOLDER = re.compile(r"(/[^\s=]*/session_[^/\s=]+)")
"""The folder of a Ray cluster, which the arguments of its programs name."""


class ServiceProcesses:
    """The processes of the service that listens at a port. They are looked up for each call, because they come and go."""

    def __init__(self, service: RunningProgram) -> None:
        found = footprint.service_at(service.port)
        if found is None:
            raise fail("unavailable", f"No service of this user listens on port {service.port}.")
        self._first = found

    def all(self) -> list[psutil.Process]:
        """Every process, HAProxy included."""
        return footprint.processes_of(self._first)

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The replicas of a deployment, the oldest first."""
        title = f"ray::{REPLICA}{deployment}"
        found = [process for process in self.all() if " ".join(command_line(process)).startswith(title)]
        return sorted(found, key=lambda process: process.create_time())

    def named(self, program: str) -> list[psutil.Process]:
        """The processes with this title (an actor of Ray), or whose program has this name."""
        return [process for process in self.all() if _is(process, program)]

    def log_folder(self) -> Path:
        """Where the logs of all processes are, also of those that are gone. Raises `MotetError` if Ray does not run."""
        for process in self.named(RAYLET):
            for word in command_line(process):
                if found := SESSION_FOLDER.search(word):
                    return Path(found.group(1)) / "logs"
        raise fail("unavailable", "The service has no raylet.")


def title_of(process: psutil.Process) -> str:
    """What the process is: the name of an actor, or of a program."""
    words = command_line(process)
    if not words:
        return ""
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    return words[0] if words[0].startswith("ray::") else f"{Path(words[0]).name} {module}".strip()


def _is(process: psutil.Process, program: str) -> bool:
    words = command_line(process)
    return bool(words) and (" ".join(words).startswith(program) or Path(words[0]).name == program)
