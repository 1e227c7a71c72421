"""Runs the examples of a page unchanged, except for the address of the service."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.e2e.conftest import Service

ADDRESS = "http://localhost:8000"
LIMIT_S = 240.0
"""Of one block of a page."""


def run_examples(blocks: Iterable[tuple[str, str]], service: Service, folder: Path) -> str:
    """Runs blocks, each a language and its text, in order and in one folder. Returns all that was printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    printed = ""
    for language, text in blocks:
        program = {"sh": ["bash", "-euc"], "python": [sys.executable, "-c"]}[language]
        run = subprocess.run(
            [*program, text.replace(ADDRESS, service.url)],
            cwd=folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert run.returncode == 0, f"{text}\n{run.stdout}\n{run.stderr}"
        printed += run.stdout + "\n"
    return printed
