"""Each kind of process imports only the libraries that it uses, because imports decide its idle memory."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

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
TRACING = {"opentelemetry.exporter"}  # Ray Serve imports the rest of OpenTelemetry
UNUSED = ENGINES | TABLES | SCIENCE | TRACING

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
    program = f"import {modules}, sys; print(*(name for name in sys.modules if sys.modules[name]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    imported = done.stdout.split()
    assert not left_out & {*imported, *(name.partition(".")[0] for name in imported)}


def _installed_with(requirements: Iterable[str]) -> set[str]:
    """The distributions that these requirements bring, by their normalised names."""
    found, waiting = set[str](), [Requirement(each) for each in requirements]
    while waiting:
        needed = waiting.pop()
        name = canonicalize_name(needed.name)
        environments = [{"extra": extra} for extra in ("", *needed.extras)]
        if (needed.marker and not needed.marker.evaluate({"extra": ""})) or (name in found and not needed.extras):
            continue
        found.add(name)
        for each in map(Requirement, metadata.requires(name) or ()):
            if each.marker is None or any(each.marker.evaluate(environment) for environment in environments):
                each.marker = None
                waiting.append(each)
    return found


WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(name)

missing = set(sys.argv[1:])
sys.meta_path.insert(0, Missing())
"""


RAYS_OWN = Path(sysconfig.get_path("purelib"), "ray/thirdparty_files")
"""What Ray brings with itself, such as colorama, which other packages install too."""


def test_the_service_starts_with_what_is_installed_without_extras() -> None:
    """`make serve` installs no extras. The tests have all of them, so everything else is made impossible to import here."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    installed = _installed_with(dependencies) | {"motet", "setuptools"}
    here = [sysconfig.get_path("purelib")]  # Ray adds a folder of its own to the path, once it is imported
    missing = [
        name
        for name, owners in metadata.packages_distributions().items()
        if installed.isdisjoint(map(canonicalize_name, owners)) and PathFinder.find_spec(name, here)
    ]
    missing = [name for name in missing if not (RAYS_OWN / name).exists()]
    assert {"torch", "pytest", "soundfile"} <= set(missing)
    program = f"{WITHOUT}\nimport {', '.join(modules for modules, _ in LEFT_OUT.values())}"
    done = subprocess.run([sys.executable, "-c", program, *missing], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_pandas_can_be_imported_after_ray_serve() -> None:
    program = "import serve_app.workers.serve_imports, sys; assert 'pandas' not in sys.modules; import pandas; print(pandas.DataFrame())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
