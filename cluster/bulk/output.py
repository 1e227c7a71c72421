"""Writes the finished job: a folder of files with a manifest, or Parquet files with the sound inside.

Both have the order of the input. Nothing in them depends on when or where a row was made.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.bulk import failed_rows
from cluster.bulk.binary_column import cells_of
from cluster.bulk.job import BulkOrder, BulkTranscriptionOrder
from cluster.bulk.other_columns import as_json, columns_of, with_columns
from cluster.bulk.results import OUTPUT
from cluster.bulk.settings import Layout
from cluster.bulk.spooled_bytes import Data
from cluster.bulk.store import FOLDER, cut_to_bytes, replacing, write_whole
from cluster.bulk.transcripts import transcript_file
from deployments.audio.formats import FORMATS
from deployments.engines.registry import Task
from deployments.errors import fail

ROW_GROUP_BYTES = 16 * 1024 * 1024
OPEN_PARTS = 128
UNSAFE = re.compile(r"[^\w.-]+")
LONGEST_NAME_BYTES = 120
"""Of the id in a file's name. Most file systems allow 255 bytes, some fewer."""
PARTS = "part-*.parquet"
MANIFEST = "manifest.jsonl"
SOUNDS = "audio"
TRANSCRIPTS = "transcripts"

Facts = dict[str, Any]


def refuse_to_overwrite(output: Path, layout: Layout, task: Task) -> None:
    """Raises `MotetError` if a new job would overwrite files."""
    if layout == "parquet":
        there = sorted(output.glob(PARTS))
    else:
        there = [path for path in (output / MANIFEST, output / _files_of(task)) if path.exists() and _is_written(path)]
    there += [path for path in (output / failed_rows.FILE,) if path.exists()]
    if there:
        cause = f"{there[0]} exists already, and it does not belong to a Motet job in {output}."
        raise fail("invalid", cause, "Name another folder, or move the file away.", code="would_overwrite")


def _files_of(task: Task) -> str:
    """The folder of a job's files, of sound or of text."""
    return TRANSCRIPTS if task == "transcription" else SOUNDS


def _is_written(path: Path) -> bool:
    """Whether a job would change the path. An empty folder has nothing to lose."""
    return not path.is_dir() or any(path.iterdir())


def refuse_inputs_in_output(inputs: Sequence[Path], output: Path, layout: Layout, task: Task) -> None:
    """Raises `MotetError` if an input would be overwritten, or if a job would find its own sound among its recordings."""
    folder = output.resolve()
    for given in inputs:
        path = given.resolve()
        if layout == "parquet":
            clash = path.parent == folder and path.match(PARTS)
        else:
            sounds = folder / SOUNDS
            beside = path.is_relative_to(sounds) or (path.is_dir() and sounds.is_relative_to(path))
            clash = path == folder / MANIFEST or (beside and task != "transcription")
        clash = clash or path == folder / failed_rows.FILE
        if clash or path.is_relative_to(folder / FOLDER):
            cause = f"The input {given} is where output is written."
            raise fail("invalid", cause, f"Name an output folder other than {output}.", code="would_overwrite")


def results_of(
    rows: Sequence[tuple[str, str]], places: Mapping[str, tuple[str, int, int]], part: Callable[[str], pa.Table]
) -> Iterator[pa.Table]:
    """One `OUTPUT` table for each (id, key) of `rows`. `places` maps a key to its part, its first row there, and its number
    of rows."""
    opened = lru_cache(OPEN_PARTS)(part)
    for name, key in rows:
        batch, start, count = places[key]
        table = opened(batch).slice(start, count)
        yield table.add_column(0, OUTPUT.field(0), pa.array([name] * count, pa.string())).cast(OUTPUT)


def write_parquet(
    results: Iterator[pa.Table], others: Sequence[Mapping[str, Any]], output: Path, shard_bytes: int
) -> list[Path]:
    """Writes `part-00000.parquet` and so on, with the `others` of each row as columns. Each file is closed once it has
    `shard_bytes`."""
    written: list[Path] = []
    columns = columns_of(others)
    schema = pa.schema([*OUTPUT, *columns.schema])
    groups = _grouped(with_columns(results, columns))
    group = next(groups, None)
    while group is not None or not written:
        path = output / f"part-{len(written):05d}.parquet"
        with replacing(path) as half, pq.ParquetWriter(half, schema, compression="zstd") as writer:
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


def write_folder(
    results: Iterator[pa.Table], others: Sequence[Mapping[str, Any]], output: Path, order: BulkOrder
) -> list[Path]:
    """Writes `audio/<id>.<format>` for every sound, or `transcripts/<id>.<format>` for every transcript, and
    `manifest.jsonl` with everything else and the `others` of each row, one row a line."""
    manifest = output / MANIFEST
    folder = output / _files_of(order.task)
    taken: set[str] = set()
    written = [manifest]
    with replacing(manifest) as half, half.open("w", encoding="utf-8") as lines:
        for table, given in zip(results, others, strict=True):
            for facts in _facts_of(table):
                if content := _content(facts, order):
                    path = folder / f"{_file_stem(facts, taken)}.{content.extension}"
                    path.parent.mkdir(exist_ok=True)
                    write_whole(path, content.data)
                    written.append(path)
                    facts["file"] = str(path.relative_to(output))
                lines.write(as_json({**_plain(facts), **given}) + "\n")
    return written


def _facts_of(table: pa.Table) -> Iterator[Facts]:
    """The rows of a table. Their sound stays where it is, in the part that is mapped."""
    rows = table.drop_columns(["audio"]).to_pylist()
    for facts, sound in zip(rows, cells_of(table.column("audio")), strict=True):
        yield {**facts, "audio": sound}


@dataclass(frozen=True, slots=True)
class _Content:
    """What is in the file of a result."""

    extension: str
    data: Data


def _content(facts: Facts, order: BulkOrder) -> _Content | None:
    """The sound or the transcript of a result, which loses its sound; None if it failed."""
    sound = facts.pop("audio")
    if facts["error"] is not None:
        return None
    if isinstance(order, BulkTranscriptionOrder):
        return _Content(order.written, transcript_file(facts, order.written, order.subtitles))
    return _Content(FORMATS[facts["format"]].extension, sound)


def _file_stem(facts: Facts, taken: set[str]) -> str:
    """The row's id, shortened to what a file name can hold, with its key if the name is taken."""
    stem = f".{UNSAFE.sub('_', facts['stem'])}" if facts["stem"] else ""
    safe = cut_to_bytes(UNSAFE.sub("_", facts["id"]).strip("."), LONGEST_NAME_BYTES) or "row"
    name = f"{safe}{stem}"
    number = len(taken)
    while _folded(name) in taken:
        name = f"{safe}-{facts['key'][:12]}-{number}{stem}"
        number += 1
    taken.add(_folded(name))
    return name


def _folded(name: str) -> str:
    """The same for names that are one file on a disk that ignores case and Unicode normalization."""
    return unicodedata.normalize("NFC", name).casefold()


def _plain(facts: Facts) -> Facts:
    return {name: value for name, value in facts.items() if value is not None}
