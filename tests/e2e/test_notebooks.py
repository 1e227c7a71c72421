"""The notebooks run from top to bottom, with outputs of the kinds that are stored, and show what their text says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import Service
from tests.notebook_results import SHOWS
from tests.notebooks import NOTEBOOKS, code_cells, executed, kinds_of, read, text_of


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_says(path: Path, service: Service) -> None:
    notebook = executed(path, service.url)
    kinds, stored = ([kinds_of(cell) for cell in code_cells(each)] for each in (notebook, read(path)))
    assert kinds == stored
    text = text_of(notebook)
    assert SHOWS[path.stem](text), text
