"""The rows of a job that failed: some for its summary, and all in a file that can be the input of another job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.bulk.other_columns import as_json
from cluster.bulk.store import write_whole

FILE = "failed.jsonl"
MOST_NAMED = 5
_COLUMNS = ("id", "text", "voice", "error_kind", "error")


@dataclass(frozen=True, slots=True)
class FailedRow:
    """A row that failed, and why."""

    id: str
    error: str


@dataclass(slots=True)
class FailedRows:
    """The rows that failed, in the order of the input."""

    found: list[Mapping[str, Any]] = field(default_factory=list)

    def watched(self, results: Iterator[pa.Table], again: Iterator[Mapping[str, Any]]) -> Iterator[pa.Table]:
        """The results of each row, unchanged. Notes those that failed, with what another job needs of the row."""
        for table, given in zip(results, again, strict=True):
            if table.num_rows and table.column("error")[0].is_valid:
                facts = table.slice(0, 1).select(_COLUMNS).to_pylist()[0]
                self.found.append({**{name: value for name, value in facts.items() if value is not None}, **given})
            yield table

    @property
    def named(self) -> tuple[FailedRow, ...]:
        """The first ones."""
        return tuple(FailedRow(facts["id"], facts["error"]) for facts in self.found[:MOST_NAMED])

    def write(self, output: Path) -> list[Path]:
        """Writes all of them, one a line; no file if there are none."""
        path = output / FILE
        if not self.found:
            path.unlink(missing_ok=True)
            return []
        write_whole(path, "".join(f"{as_json(facts)}\n" for facts in self.found).encode())
        return [path]
