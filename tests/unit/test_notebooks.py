"""The notebooks as they are stored: with pictures, made by the present cells, and with imports that users have."""

from __future__ import annotations

import ast
import base64
import io
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from matplotlib import image

from tests import notebooks
from tests.notebook_results import SHOWS
from tests.notebooks import FOLDER, NOTEBOOKS, code_cells, digest_of, read

FEWEST_PICTURES = 1
NARROWEST = 400
"""Pixels of a figure's width."""
MACHINE_PATHS = re.compile(r"/home/|/root/|/tmp/|/Users/|/work/|site-packages|\.venv")
CLIENTS = {"openai", "httpx", "websockets"}
TOOLS = {"numpy", "pandas", "matplotlib", "IPython", "soundfile", "ray"}
"""What a reader of audio and tables, or a user of Ray Data, has beside a client."""
PUBLIC = ("serve_app.bulk",)
"""The modules of Motet that the documentation shows to users; the rest is the HTTP API and the command `motet`."""
OWN_MODULE = re.compile(r"\b(?:serve_app|deployments|cluster)(?:\.\w+)+")
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def imports_of(notebook: Any) -> set[str]:
    """The dotted names of the modules that a notebook imports from."""
    found: set[str] = set()
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def private_to(notebook: Any) -> list[str]:
    """What a notebook imports, or names as `python -m` and importlib do, that its readers do not have."""
    named = {name for cell in code_cells(notebook) for name in OWN_MODULE.findall(cell.source)}
    return sorted(name for name in imports_of(notebook) | named if not is_for_users(name))


def is_for_users(name: str) -> bool:
    """Whether users import from the module, or the name, of that dotted name."""
    first, *rest = name.split(".")
    if any(part.startswith("_") for part in rest):
        return False
    return first in CLIENTS | TOOLS | sys.stdlib_module_names or f"{name}.".startswith(
        tuple(f"{each}." for each in PUBLIC)
    )


def pictures_of(notebook: Any) -> list[bytes]:
    shown = [output.get("data", {}) for cell in code_cells(notebook) for output in cell.outputs]
    return [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]


def test_all_eight_are_there() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{number:02}" for number in range(1, 9)]


@each_notebook
def test_outputs_were_made_by_the_present_cells(path: Path) -> None:
    notebook = read(path)
    assert notebook.metadata[notebooks.DIGEST] == digest_of(notebook), "run `make notebooks`"
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


@each_notebook
def test_the_stored_outputs_show_what_the_text_says(path: Path) -> None:
    text = notebooks.text_of(read(path))
    assert SHOWS[path.stem](text), text


@each_notebook
def test_pictures_are_stored(path: Path) -> None:
    pictures = pictures_of(read(path))
    assert len(pictures) >= FEWEST_PICTURES
    for picture in pictures:
        pixels = image.imread(io.BytesIO(picture), format="png")
        assert pixels.shape[1] >= NARROWEST
        assert pixels.std() > 0.02


@each_notebook
def test_outputs_show_no_error_and_no_path_of_a_machine(path: Path) -> None:
    notebook = read(path)
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert not MACHINE_PATHS.search(notebooks.text_of(notebook))


@each_notebook
def test_a_notebook_imports_what_users_import(path: Path) -> None:
    assert private_to(read(path)) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import json\nimport matplotlib.pyplot as plt\nfrom openai import OpenAI", []),
        ("from serve_app import bulk as motet_bulk\nfrom serve_app.bulk import synthesize", []),
        ("from serve_app import config", ["serve_app.config"]),
        ("from serve_app import bulkhead", ["serve_app.bulkhead"]),
        ("import deployments", ["deployments"]),
        ("import torch", ["torch"]),
        ("from ray import _private", ["ray._private"]),
        ("from . import sibling", ["None.sibling"]),
        ("run(['-m', 'serve_app.cli.main'])", ["serve_app.cli.main"]),
    ],
)
def test_what_only_motet_imports_is_found(code: str, found: list[str]) -> None:
    cell = nbformat.v4.new_code_cell(code)  # type: ignore[no-untyped-call]
    notebook = nbformat.v4.new_notebook(cells=[cell])  # type: ignore[no-untyped-call]
    assert private_to(notebook) == found


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_public_is_in_the_readme(name: str) -> None:
    package, _, module = name.rpartition(".")
    assert f"from {package} import {module}" in (FOLDER.parent / "README.md").read_text()


@each_notebook
def test_a_notebook_explains_itself(path: Path) -> None:
    """A title first, and words before each run of three code cells."""
    kinds = [cell.cell_type for cell in read(path).cells]
    assert kinds[0] == "markdown"
    assert "code code code" not in " ".join(kinds)
    assert f"]({path.name})" in (FOLDER / "README.md").read_text()


def test_changed_code_is_found() -> None:
    notebook = read(NOTEBOOKS[0])
    code_cells(notebook)[0].source += "\n"
    assert digest_of(notebook) != notebook.metadata[notebooks.DIGEST]
