"""What is installed reports nothing about the service to its makers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SILENT = ("ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI")
"""Variables that silence ONNX Runtime. Users have none of them set."""


def files_after(program: str, home: Path) -> list[str]:
    """The names of the files in a user's home folder after a program has run there."""
    there = {name: value for name, value in os.environ.items() if name not in SILENT}
    own = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "XDG_DATA_HOME": str(home / "data")}
    subprocess.run([sys.executable, "-c", program], env=there | own, check=True, timeout=60)
    return [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "module",
    ["deployments.engines.onnx_session", "deployments.engines.hibari.voice", "deployments.engines.whisper.engine"],
)
def test_engines_start_onnx_runtime_without_its_telemetry(module: str, tmp_path: Path) -> None:
    """Its telemetry keeps an identifier of the machine and a queue of events in the user's folder of caches."""
    assert files_after(f"import {module}, onnxruntime", tmp_path) == []
