"""The notebooks run from top to bottom with the expected output."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def read(path: Path) -> Any:
    return nbformat.reads(path.read_text(), as_version=4)  # type: ignore[no-untyped-call]


def executed(path: Path) -> Any:
    notebook = read(path)
    NotebookClient(notebook, timeout=150, kernel_name="python3").execute()
    return notebook


def outputs_of(notebook: Any) -> str:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return "".join(output.get("text", "") for cell in cells for output in cell.outputs)


def pictures_of(notebook: Any) -> int:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_without_outputs(path: Path) -> None:
    assert outputs_of(read(path)) == ""


def test_first_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        monkeypatch.setenv("MOTET_PORT", str(probe.getsockname()[1]))  # of a service of its own
    notebook = executed(NOTEBOOKS[0])
    text = outputs_of(notebook)
    heard = re.findall(r"\d - +[\d.]+  (.*)", text)
    assert "many streams" in " ".join(heard).lower()
    before, after = map(float, re.findall(r"(-?[\d.]+) dB", text))
    assert after > before + 4
    assert re.search(r"first sound after \d\.\d\d s", text)
    assert "transcription  whisper-base" in text
    assert pictures_of(notebook) == 4
