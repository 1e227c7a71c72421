"""Each kind of process imports only the libraries that it uses, because imports decide its idle memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

import pytest

ENGINES = {
    "torch",
    "onnxruntime",
    "ctranslate2",
    "faster_whisper",
    "tokenizers",
    "huggingface_hub",
    "mlx",
    "transformers",
}
TABLES = {"pandas", "pyarrow"}
SCIENCE = {"scipy", "librosa", "numba", "soundfile", "matplotlib"}
SOUND = {"av", "soxr", "sentencex"}
SERVICE = {"ray"}
UNUSED = ENGINES | TABLES | SCIENCE

LEFT_OUT: Mapping[str, tuple[str, set[str]]] = {
    "a process of Ray Serve's own": ("serve_app.workers.worker_start", UNUSED | SOUND),
    "the server": ("serve_app.workers.worker_start, serve_app.cli.serve, serve_app.app", UNUSED),
    "a gateway": ("serve_app.workers.worker_start, serve_app.gateway.deployment", UNUSED),
    "a replica that speaks": ("serve_app.workers.worker_start, deployments.replica.synthesizer", UNUSED),
    "a replica that transcribes": ("serve_app.workers.worker_start, deployments.replica.recognizer", UNUSED),
    "a replica that separates": (
        "serve_app.workers.worker_start, deployments.replica.separator",
        UNUSED | {"av", "sentencex"},
    ),
    "the separation helper": ("serve_app.workers.worker_start, deployments.replica.merger", UNUSED | {"sentencex"}),
    "the command": ("serve_app.cli.main", UNUSED | SOUND | SERVICE),
}


@pytest.mark.parametrize("process", LEFT_OUT)
def test_a_process_imports_only_what_it_uses(process: str) -> None:
    modules, left_out = LEFT_OUT[process]
    program = f"import {modules}, sys; print(*{{name.partition('.')[0] for name in sys.modules if sys.modules[name]}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not left_out & set(done.stdout.split())


def test_pandas_can_be_imported_after_ray_serve() -> None:
    program = "import serve_app.workers.serve_imports, sys; assert 'pandas' not in sys.modules; import pandas; print(pandas.DataFrame())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
