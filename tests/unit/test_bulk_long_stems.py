"""The stems of a long recording in a bulk job: they are in files, and not in memory."""

from __future__ import annotations

import errno
import mmap
import tempfile
import tracemalloc
import wave
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.bulk import spooled_bytes, store
from cluster.bulk.binary_column import cells_of
from cluster.bulk.plan import Batch, item_of
from cluster.bulk.rendering import renderer_of
from cluster.bulk.results import RowResult, table_of
from cluster.bulk.row import Row, row_of_file
from cluster.bulk.settings import Layout
from cluster.bulk.spooled_bytes import Data, SpooledBytes
from cluster.bulk.workers import SENT, RenderedBatch, Worker, batches_in, rendered_batch, rendered_table
from deployments.errors import MotetError, fail
from serve_app.bulk import BulkOptions, job_of
from tests.unit.test_bulk_jobs import app_of, contents, engine_of, run

RATE = 16_000
JOB = job_of(app_of("identity"), "separation", None, BulkOptions(chunk_seconds=1.0, overlap_seconds=0.3), None)[0]


def recording(folder: Path, seconds: int) -> Row:
    """A WAV file of noise, mono."""
    path = folder / "long.wav"
    noise = np.random.default_rng(0).integers(-9000, 9000, seconds * RATE, np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(noise.tobytes())
    return row_of_file("long", path)


def rendered(batches: Sequence[Batch]) -> Iterator[RenderedBatch]:
    """Each batch, on the way that it takes from a worker to the job."""
    renderer = renderer_of(JOB, engine_of(JOB))
    for batch in batches:
        sounds = [Path(item.recording.path).read_bytes() for item in batch.items if item.recording]
        made = rendered_batch(batch.name, batch.items, renderer.render(batch.items, sounds), JOB.model.model)
        yield from batches_in(rendered_table([made]))


def hold(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Bytes of which more are in a file."""
    monkeypatch.setattr(spooled_bytes, "HELD_BYTES", most)
    monkeypatch.setattr(store, "HELD_BYTES", most)


@pytest.mark.parametrize("layout", ["folder", "parquet"])
def test_the_output_is_the_same_whether_stems_are_in_files_or_in_memory(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = recording(tmp_path, 3)
    run(JOB, tmp_path / "memory", rendered, [row], layout)
    hold(monkeypatch, 1000)
    run(JOB, tmp_path / "files", rendered, [row], layout)
    assert contents(tmp_path / "memory") == contents(tmp_path / "files") != {}


def test_stems_of_a_long_recording_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the recording, which is as large as its stem and is read as a whole."""
    hold(monkeypatch, 2**16)
    run(JOB, tmp_path / "warm", rendered, [recording(tmp_path, 3)], "folder")
    row = recording(tmp_path, 300)
    assert row.recording is not None
    size = row.recording.size
    tracemalloc.start()
    try:
        with own_pool() as arrow:
            run(JOB, tmp_path / "out", rendered, [row], "folder")
        python = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "out" / "audio" / "long.audio.wav").stat().st_size == pytest.approx(size, rel=0.01)
    assert python < 1.5 * size
    assert 0 < arrow.max_memory() < 0.5 * size


@contextmanager
def own_pool() -> Iterator[pa.MemoryPool]:
    """Counts what Arrow allocates meanwhile, which Python does not trace."""
    before = pa.default_memory_pool()
    counting = pa.proxy_memory_pool(before)
    pa.set_memory_pool(counting)
    try:
        yield counting
    finally:
        pa.set_memory_pool(before)


def test_many_bytes_are_mapped_and_stay_after_their_file_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    hold(monkeypatch, 10)
    body = SpooledBytes()
    for _ in range(5):
        body.write(b"0123456")
    made = body.finish(b"head")
    body.close()
    body.close()
    assert isinstance(made, mmap.mmap)
    assert bytes(made) == b"head456" + 4 * b"0123456"


def test_few_bytes_are_in_memory() -> None:
    body = SpooledBytes()
    body.write(b"0123456")
    assert body.finish(b"head") == b"head456"


def test_cells_are_what_was_put_there(monkeypatch: pytest.MonkeyPatch) -> None:
    hold(monkeypatch, 1)
    body = SpooledBytes()
    body.write(b"mapped")
    cells: list[Data | None] = [b"one", None, b"", body.finish(b"")]
    results = [RowResult(audio=cell) for cell in cells]
    for given in (cells, cells[:3]):
        column = table_of([("key", results[: len(given)])], "model").column("audio")
        assert [None if cell is None else bytes(cell) for cell in cells_of(column)] == [
            None if cell is None else bytes(cell) for cell in given
        ]
    assert [None if cell is None else bytes(cell) for cell in cells_of(column.slice(1))] == [None, b""]
    assert list(cells_of(pa.chunked_array([], pa.large_binary()))) == []


def test_a_worker_that_cannot_render_says_why() -> None:
    table = rendered_table([]).schema.empty_table()
    refused = pa.Table.from_pylist([{"refused": "No room."}], schema=table.schema)
    with pytest.raises(MotetError, match=r"No room\."):
        list(batches_in(refused))


def test_a_full_disk_of_temporary_files_ends_the_run_and_fails_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    hold(monkeypatch, 10)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    item = item_of(recording(tmp_path, 2), JOB)
    sound = (tmp_path / "long.wav").read_bytes()
    renderer = renderer_of(JOB, engine_of(JOB))
    with pytest.raises(MotetError, match="No space left .* TMPDIR") as stopped:
        renderer.render([item], [sound])
    assert stopped.value.failure.kind == "storage_full"


def test_a_worker_that_cannot_write_refuses_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> RenderedBatch:
        raise fail("storage_full", "The disk is full.", "Set TMPDIR.")

    monkeypatch.setattr(Worker, "_load", lambda _: None)
    monkeypatch.setattr(Worker, "_made", full)
    sent = pa.Table.from_pylist([{"name": "batch", "items": "[]", "recordings": [], "faults": []}], SENT)
    with pytest.raises(MotetError, match="Set TMPDIR"):
        list(batches_in(Worker(JOB)(sent)))


def test_a_full_disk_ends_the_run_while_a_part_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    hold(monkeypatch, 10)
    monkeypatch.setattr(store, "NamedTemporaryFile", full)
    with pytest.raises(MotetError, match="No space left .* TMPDIR"):
        store.part_bytes(table_of([("key", [RowResult(audio=bytes(100))])], "model"))
