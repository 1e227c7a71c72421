"""The rows of a job: tables, plain text and EPUB chapters for speech; tables and sound files for the other tasks."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Literal

import pyarrow as pa

from cluster.bulk.epub import chapters
from cluster.bulk.row import Row, as_utf8, is_text, not_utf8, row_of_file
from cluster.bulk.tables import TABLES, open_text
from deployments.audio.formats import SOUND_SUFFIXES
from deployments.engines.registry import Task
from deployments.errors import fail

Split = Literal["line", "paragraph"]

TEXTS = (".txt", ".epub")
LONGEST_ID = 200
SHOWN_IDS, SHOWN_PLACES = 10, 20
"""Of an error about equal ids."""


def read_rows(paths: Sequence[Path], task: Task, split: Split) -> Iterator[Row]:
    """The rows of all inputs in order, each with an id of its own.

    Raises `MotetError` for an input that cannot be read, and for two rows with the same id.
    """
    rows = [_with_a_fit_id(row) for path in paths for row in _whole(path, task, split)]
    _refuse_equal_ids(rows)
    taken = {row.id for row in rows}
    # Given ids come first, wherever they are: a made-up one can still be changed.
    for number, row in enumerate(rows):
        name = row.id or next(name for name in _names_of(row, number) if name not in taken)
        taken.add(name)
        yield replace(row, id=name, fault=as_utf8(row.fault), names=())


def _refuse_equal_ids(rows: Sequence[Row]) -> None:
    """Raises `MotetError` (invalid) with each id that several rows have, and where they are."""
    places: dict[str, list[str]] = {}
    for row in rows:
        if row.id:
            places.setdefault(row.id, []).append(row.place)
    equal = {id: there for id, there in places.items() if len(there) > 1}
    if equal:
        listed = [f"\n  {id!r}: {_some(there)}" for id, there in islice(equal.items(), SHOWN_IDS)]
        more = f"\n  and {len(equal) - SHOWN_IDS} more ids" if len(equal) > SHOWN_IDS else ""
        cause = f"Several rows have the same id:{''.join(listed)}{more}\n"
        raise fail("invalid", cause, "Give each row a different `id`, or none.", code="equal_ids")


def _some(places: Sequence[str]) -> str:
    more = f" and {len(places) - SHOWN_PLACES} more" if len(places) > SHOWN_PLACES else ""
    return ", ".join(places[:SHOWN_PLACES]) + more


def _with_a_fit_id(row: Row) -> Row:
    fault = ""
    if len(row.id) > LONGEST_ID:
        fault = "The row's id is too long."
    elif not is_text(row.id):
        fault = "The row's id is not text: it holds half of a UTF-16 pair."
    return replace(row, id="", fault=fault, recording=None) if fault else row


def _names_of(row: Row, number: int) -> Iterator[str]:
    yield from (name for name in map(as_utf8, row.names) if name and len(name) <= LONGEST_ID)
    yield f"{number:06d}"
    yield from (f"{number:06d}-{again}" for again in count(2))


def _whole(path: Path, task: Task, split: Split) -> Iterator[Row]:
    """The rows of an input. Raises `MotetError` that names the input if it cannot be read to its end."""
    try:
        yield from _rows_of(path, task, split)
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        cause = f"{path} cannot be read: {' '.join(str(error).split()).rstrip('.')}."
        raise fail("invalid", as_utf8(cause), "Check the file, or export it again.") from error


def _rows_of(path: Path, task: Task, split: Split) -> Iterator[Row]:
    if not path.exists():
        raise fail("invalid", f"The input {path} does not exist.", "Pass the path of a file or folder.")
    if task != "speech" and path.is_dir():
        return _folder(path)
    if task != "speech" and path.suffix.lower() in SOUND_SUFFIXES:
        return iter([replace(row_of_file("", path), names=_file_names(path, path.parent))])
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix in TABLES:
        return TABLES[suffix](path, task)
    if task == "speech" and suffix in TEXTS:
        return _epub(path) if suffix == ".epub" else _plain(path, split)
    if suffix in TEXTS:
        raise fail("invalid", f"{path} holds no recordings.", f"Known inputs: {', '.join(TABLES)} and sound files.")
    if task == "speech" and _holds_recordings(path):
        cause = (
            f"{path} is {'a folder of recordings' if path.is_dir() else 'a recording'}, and speech is made of texts."
        )
        raise fail("invalid", cause, "Add --task transcription, or --task separation.", code="recordings_need_task")
    speech, others = (*TABLES, *TEXTS), ("a folder", *sorted(SOUND_SUFFIXES), *TABLES)
    known = ", ".join(speech if task == "speech" else others)
    raise fail("invalid", f"{path} is not an input for {task}.", f"Known inputs: {known}.")


def _holds_recordings(path: Path) -> bool:
    """Whether it is a recording or a folder with one."""
    return any(True for _ in _sounds_in(path)) if path.is_dir() else path.suffix.lower() in SOUND_SUFFIXES


def _sounds_in(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.suffix.lower() in SOUND_SUFFIXES and file.is_file())


def _folder(folder: Path) -> Iterator[Row]:
    found = sorted(_sounds_in(folder))
    if not found:
        raise fail(
            "invalid", f"The folder {folder} holds no recordings.", f"Accepted: {', '.join(sorted(SOUND_SUFFIXES))}."
        )
    for file in found:
        yield replace(row_of_file("", file), names=_file_names(file, folder))


def _file_names(file: Path, folder: Path) -> tuple[str, ...]:
    """The shortest first: `a`, `a.wav`, `folder/a.wav`, and the whole path."""
    name = file.relative_to(folder)
    return str(name.with_suffix("")), str(name), str(folder.resolve().name / name), str(folder / name)


def _plain(path: Path, split: Split) -> Iterator[Row]:
    with open_text(path) as lines:
        held: list[str] = []
        start = 0
        for number, line in enumerate(lines, 1):
            if line.strip():
                start = start if held else number
                held.append(line.strip())
            if held and (split == "line" or not line.strip()):
                yield _from_lines(held, path, start)
                held = []
        if held:
            yield _from_lines(held, path, start)


def _from_lines(lines: Sequence[str], path: Path, start: int) -> Row:
    text = " ".join(lines)
    return Row("", text=text) if is_text(text) else not_utf8(f"The text from line {start}", path)


def _epub(path: Path) -> Iterator[Row]:
    for number, chapter in enumerate(chapters(path), 1):
        name = f"{path.stem}-{number:03d} {chapter.title}"[:LONGEST_ID]
        yield Row(
            "", chapter.text, fault=chapter.fault, names=(name, f"{path.parent.resolve().name}/{name}"[:LONGEST_ID])
        )
