"""Imports point only downward: serve_app -> cluster -> deployments, and engines, audio and text know nothing of Ray."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ("deployments", "cluster", "serve_app")
WITHOUT_RAY = ("deployments/engines", "deployments/audio", "deployments/text")
RUNS_CODE = ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
MODULES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downward(path: Path) -> None:
    own = LAYERS.index(path.relative_to(ROOT).parts[0])
    upward = [name for name in imports_of(path) if name.split(".")[0] in LAYERS[own + 1 :]]
    assert not upward


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p).startswith(WITHOUT_RAY)], ids=name_of)
def test_engines_audio_and_text_know_nothing_of_ray(path: Path) -> None:
    forbidden = {
        "ray",
        "deployments.replica.step_gate",
        "deployments.replica.synthesizer",
        "deployments.replica.recognizer",
        "fastapi",
    }
    assert not [
        name for name in imports_of(path) if name.split(".")[0] in forbidden or name.startswith("deployments.replica")
    ]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_that_runs_code_from_a_file_is_imported(path: Path) -> None:
    assert not [name for name in imports_of(path) if name.split(".")[0] in RUNS_CODE]
    assert "trust_remote_code=True" not in path.read_text()
    assert "torch.load(" not in path.read_text()


def test_the_layout_is_the_one_that_was_agreed() -> None:
    for name in ("serve_app", "deployments", "cluster", "tests", "notebooks", "pyproject.toml", "serve_config.yaml"):
        assert (ROOT / name).exists(), name


def test_the_layers_are_really_looked_at() -> None:
    """A wrong path would make every test above pass."""
    assert len(MODULES) > 40
    assert "ray" in set(imports_of(ROOT / "deployments" / "replica" / "step_gate.py"))
