"""Executes the notebooks and stores their outputs: `python -m tests.notebooks [NAME ...]`, or `make notebooks`.

A notebook is stored with its outputs and with a digest of the cells that made them, so that a test finds cells that were
changed afterwards. The service at `MOTET_URL` is used, or one of its own.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LONGEST_CELL_S = 120
DIGEST = "motet_cells_sha256"
"""The key of a notebook's metadata."""


def read(path: Path) -> Any:
    """A notebook with its stored outputs."""
    return nbformat.reads(path.read_text(), as_version=4)  # type: ignore[no-untyped-call]


def code_cells(notebook: Any) -> list[Any]:
    """The cells that are executed."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def digest_of(notebook: Any) -> str:
    """Identifies the code of a notebook."""
    return hashlib.sha256("\0".join(cell.source for cell in code_cells(notebook)).encode()).hexdigest()


def text_of(notebook: Any) -> str:
    """What all cells printed and showed, as text."""
    outputs = [output for cell in code_cells(notebook) for output in shown(cell)]
    return "\n".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)


def shown(cell: Any) -> list[Any]:
    """The outputs of a cell without warnings, which depend on what else is installed."""
    return [output for output in cell.outputs if output.get("name") != "stderr"]


def kinds_of(cell: Any) -> list[tuple[str, ...]]:
    """The kinds of a cell's outputs in order: a stream's name, or the types of what was shown."""
    kinds = [(output.name,) if output.output_type == "stream" else tuple(sorted(output.data)) for output in shown(cell)]
    return [kind for number, kind in enumerate(kinds) if number == 0 or kind != kinds[number - 1]]


def executed(path: Path, url: str) -> Any:
    """The notebook with the outputs that it has now. `url` is the address of a running service. Raises `CellExecutionError`."""
    notebook = read(path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MOTET_"))}
    client = NotebookClient(
        notebook,
        timeout=LONGEST_CELL_S,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(env={**environment, "MOTET_URL": url})
    return notebook


def store(path: Path, notebook: Any) -> None:
    """Writes a notebook that was executed, without its warnings."""
    for cell in code_cells(notebook):
        cell.outputs = shown(cell)
    notebook.metadata[DIGEST] = digest_of(notebook)
    path.write_text(nbformat.writes(notebook) + "\n")  # type: ignore[no-untyped-call]


def needs_service(path: Path) -> bool:
    """Whether a notebook uses a running service."""
    return "MOTET_URL" in path.read_text()


@contextmanager
def _service() -> Iterator[str]:
    """The address of the service at `MOTET_URL`, or of one that ends with the context."""
    if running_url := os.environ.get("MOTET_URL"):
        yield running_url
        return
    from tests.e2e.conftest import Service, with_identity  # only for the notebooks that need one

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        running = Service.start(with_identity(folder), folder)
        try:
            yield running.url
        finally:
            running.stop(signal.SIGTERM)


def main(names: Sequence[str]) -> None:
    """Executes the notebooks whose file names begin with one of the names, or all, and stores their outputs."""
    chosen = [path for path in NOTEBOOKS if not names or path.name.startswith(tuple(names))]
    with _service() if any(map(needs_service, chosen)) else nullcontext("") as url:
        for path in chosen:
            began = time.monotonic()
            store(path, executed(path, url))
            print(f"{path.name}: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
