"""The finished job as its user wants it: Parquet files with the sound in them, or a folder of files and a manifest.

Both are written in the order of the input from the parts, and nothing in them depends on when or where a row was made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.bulk.results import OUTPUT
from cluster.bulk.store import replacing, write_whole
from deployments.audio.encode import FORMATS

Layout = Literal["parquet", "folder"]

ROW_GROUP_BYTES = 16 * 1024 * 1024
OPEN_PARTS = 128
UNSAFE = re.compile(r"[^\w.-]+")
LONGEST_NAME = 120

Facts = dict[str, Any]


def results_of(
    rows: Sequence[tuple[str, str]], places: Mapping[str, tuple[str, int, int]], part: Callable[[str], pa.Table]
) -> Iterator[pa.Table]:
    """One `OUTPUT` table for each (id, key) of `rows`. `places` says in which part a key is, from which row, and how many."""
    opened = lru_cache(OPEN_PARTS)(part)
    for name, key in rows:
        batch, start, count = places[key]
        table = opened(batch).slice(start, count)
        yield table.add_column(0, OUTPUT.field(0), pa.array([name] * count, pa.string())).cast(OUTPUT)


def write_parquet(results: Iterator[pa.Table], output: Path, shard_bytes: int) -> list[Path]:
    """`part-00000.parquet` and so on, each closed once it holds `shard_bytes`."""
    written: list[Path] = []
    groups = _grouped(results)
    group = next(groups, None)
    while group is not None or not written:
        path = output / f"part-{len(written):05d}.parquet"
        with replacing(path) as half, pq.ParquetWriter(half, OUTPUT, compression="zstd") as writer:
            size = 0
            while group is not None and size < shard_bytes:
                size += group.nbytes
                writer.write_table(group)
                group = next(groups, None)
        written.append(path)
    return written


def _grouped(results: Iterator[pa.Table]) -> Iterator[pa.Table]:
    held: list[pa.Table] = []
    size = 0
    for table in results:
        held.append(table)
        size += table.nbytes
        if size >= ROW_GROUP_BYTES:
            yield pa.concat_tables(held)
            held, size = [], 0
    if held:
        yield pa.concat_tables(held)


def write_folder(results: Iterator[pa.Table], output: Path) -> list[Path]:
    """`audio/<id>.<format>` for every sound and `manifest.jsonl` with everything else, a row a line."""
    sounds = output / "audio"
    manifest = output / "manifest.jsonl"
    taken: set[str] = set()
    written = [manifest]
    with replacing(manifest) as half, half.open("w", encoding="utf-8") as lines:
        for table in results:
            for facts in table.to_pylist():
                data = facts.pop("audio")
                if data is not None:
                    path = sounds / _file_name(facts, taken)
                    path.parent.mkdir(exist_ok=True)
                    write_whole(path, data)
                    written.append(path)
                    facts["file"] = str(path.relative_to(output))
                lines.write(json.dumps(_plain(facts), ensure_ascii=False) + "\n")
    return written


def _file_name(facts: Facts, taken: set[str]) -> str:
    """The row's id as far as a file name can hold it, and its key where that is not enough."""
    stem = f".{facts['stem']}" if facts["stem"] else ""
    safe = UNSAFE.sub("_", facts["id"]).strip(".")[:LONGEST_NAME] or "row"
    name = f"{safe}{stem}"
    if name.lower() in taken:
        name = f"{safe}-{facts['key'][:12]}-{len(taken)}{stem}"
    taken.add(name.lower())
    return f"{name}.{FORMATS[facts['format']].extension}"


def _plain(facts: Facts) -> Facts:
    return {name: value for name, value in facts.items() if value is not None}
