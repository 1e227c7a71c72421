"""The notebooks as they are stored: with pictures, made by the present cells, and with imports that users have."""

from __future__ import annotations

import ast
import base64
import io
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib import image

from tests import notebooks
from tests.notebook_results import SHOWS
from tests.notebooks import FOLDER, NOTEBOOKS, code_cells, digest_of, read

FEWEST_PICTURES = 1
NARROWEST = 400
"""Pixels of a figure's width."""
MACHINE_PATHS = re.compile(r"/home/|/root/|/tmp/|/Users/|/work/|site-packages|\.venv")
USERS_IMPORT = {"openai", "httpx", "soundfile", "numpy", "pandas", "matplotlib", "IPython", "ray"}
MOTETS_PUBLIC = {
    "serve_app": {"bulk", "config", "planning", "gateway", "bench"},
    "deployments": {"audio", "engines", "settings"},
    "cluster": {"planning"},
}
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
    for name in imports_of(read(path)):
        first, *rest = name.split(".")
        assert first in USERS_IMPORT | MOTETS_PUBLIC.keys() | STANDARD, name
        assert first not in MOTETS_PUBLIC or rest[0] in MOTETS_PUBLIC[first], name
        assert not any(part.startswith("_") for part in rest), name


STANDARD = {"asyncio", "base64", "io", "json", "logging", "os", "statistics", "time"}


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
