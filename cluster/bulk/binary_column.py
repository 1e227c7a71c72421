"""The column of a table with encoded sound, whose cells may be mapped files."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from cluster.bulk.spooled_bytes import Data


def binary_column(cells: Sequence[Data | None]) -> pa.ChunkedArray:
    """A column of `large_binary`. Bytes that are mapped are not copied."""
    if not any(isinstance(cell, mmap.mmap) for cell in cells):
        return pa.chunked_array([pa.array(cells, pa.large_binary())])
    return pa.chunked_array([_cell(cell) for cell in cells], pa.large_binary())


def cells_of(column: pa.ChunkedArray) -> Iterator[pa.Buffer | None]:
    """The bytes of each cell of a column of `large_binary`, where they are. A scalar of such a column is a copy."""
    for chunk in column.chunks:
        _, ends, content = chunk.buffers()
        places = np.frombuffer(ends, np.int64)[chunk.offset :] if len(chunk) else ()
        for at, present in enumerate(chunk.is_valid().to_pylist()):
            start, end = int(places[at]), int(places[at + 1])
            yield (content.slice(start, end - start) if end > start else pa.py_buffer(b"")) if present else None


def _cell(data: Data | None) -> pa.Array:
    if data is None:
        return pa.nulls(1, pa.large_binary())
    content = pa.py_buffer(data)
    offsets = pa.py_buffer(np.array([0, content.size], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, content])
