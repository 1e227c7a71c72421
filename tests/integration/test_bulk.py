"""Bulk jobs on a real Ray: killed workers and drivers, and recordings."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import soundfile

from cluster.bulk.run import JobProgress, JobSummary
from cluster.bulk.settings import BulkSettings
from cluster.bulk.store import JobStore
from cluster.models import Model
from deployments.errors import MotetError
from deployments.settings import StepSettings
from serve_app import bulk
from serve_app.bench.bulk_kills import WORKER_TITLE, compare, render_here, run_killed, running_job, write_job
from serve_app.bulk import BulkOptions
from serve_app.cli.processes import command_line, descendants, kill
from serve_app.config import AppConfig

TEXTS = [f"{'word ' * (number % 5 + 1)}{number}." for number in range(24)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 * 2**20)
    yield
    ray.shutdown()


def app_of(engine: str, source: str | None = None, **settings: Any) -> AppConfig:
    options = {"step_ms": 2, "chunk_ms": 160} if engine == "simulated" else {}
    model = Model(engine=engine, source=source, options=options, steps=StepSettings(max_batch_size=3))
    return AppConfig(models={engine: model}, bulk=BulkSettings.model_validate({"batch_rows": 2, "nice": 0} | settings))


def rendered(
    folder: Path, app: AppConfig, progress: Callable[[JobProgress], None] = lambda now: None, **wishes: Any
) -> JobSummary:
    lines = folder.parent / "lines.txt"
    lines.write_text("\n".join(TEXTS))
    return bulk.run([lines], "speech", folder, "parquet", BulkOptions(**wishes), app, workers=2, progress=progress)


@pytest.fixture(scope="module")
def calm(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an undisturbed job."""
    folder = tmp_path_factory.mktemp("calm") / "out"
    summary = rendered(folder, app_of("simulated"))
    assert (summary.rows, summary.failed) == (len(TEXTS), 0)
    return folder


def kill_the_workers() -> int:
    """Every actor of a pool on this machine that belongs to this test."""
    family = descendants(os.getpid())
    workers = [p for p in family if any(part.startswith(WORKER_TITLE) for part in command_line(p))]
    return kill(workers, 10)


def test_killed_workers_leave_no_trace_in_the_output(calm: Path, tmp_path: Path) -> None:
    """No retries of a batch, so that its rows are rendered one by one afterwards."""
    killed: list[int] = []

    def kill_once(now: JobProgress) -> None:
        if now.new_size and not killed:
            killed.append(kill_the_workers())

    summary = rendered(tmp_path / "rough", app_of("simulated", retries=0), kill_once)
    assert killed[0] > 0
    assert (summary.rows, summary.failed) == (len(TEXTS), 0)
    assert (tmp_path / "rough" / "part-00000.parquet").read_bytes() == (calm / "part-00000.parquet").read_bytes()


def test_a_killed_command_goes_on_where_it_was(cluster: None, tmp_path: Path) -> None:
    rows = 40
    command = write_job(tmp_path, rows, {"engine": "simulated", "options": {"step_ms": 20}})
    render_here(tmp_path, tmp_path / "calm")
    rough = tmp_path / "rough"
    store = JobStore(rough)
    with running_job([*command, "-o", str(rough)]) as program:
        while not store.done():
            assert program.poll() is None
            time.sleep(0.02)
        program.kill()
    done_before = store.done()
    assert 0 < len(done_before) < rows / 4
    assert run_killed(command, rough, rows, []) == []
    assert compare(tmp_path / "calm", rough, rows) == (0, 0, 0, 0)


def test_a_model_that_does_not_load_stops_the_job_with_its_cause(cluster: None, tmp_path: Path) -> None:
    with pytest.raises(MotetError, match="/nowhere"):
        rendered(tmp_path / "out", app_of("hibari", "path:/nowhere"))


def test_recordings_come_from_the_drivers_folder(cluster: None, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 16_000 * 2)).astype(np.float32)
    (tmp_path / "in").mkdir()
    for number, samples in enumerate(noise):
        soundfile.write(tmp_path / "in" / f"{number}.wav", samples[: 16_000 * (number + 1) // 2], 16_000)
    (tmp_path / "in" / "bad.wav").write_bytes(b"no sound")
    done = bulk.run(
        [tmp_path / "in"],
        "separation",
        tmp_path / "out",
        "folder",
        BulkOptions(),
        app_of("identity"),
        workers=1,
        progress=lambda now: None,
    )
    assert (done.rows, done.failed) == (4, 1)
    for number in range(3):
        (stem,) = (tmp_path / "out" / "audio").glob(f"{number}.*.wav")
        before, _ = soundfile.read(tmp_path / "in" / f"{number}.wav", dtype="int16")
        after, _ = soundfile.read(stem, dtype="int16")
        assert np.abs(after.astype(int) - before).max() <= 1


def test_a_dataset_of_somebodys_own_gets_the_same_bytes(calm: Path) -> None:
    rows = [{"page": number, "text": text} for number, text in enumerate([*TEXTS[:5], "poison", ""])]
    made = bulk.synthesize(ray.data.from_items(rows), app=app_of("simulated"), workers=1).take_all()
    found = {row["page"]: row for row in made}
    assert len(made) == len(found) == 7
    for page in range(5):
        assert soundfile.info(io.BytesIO(found[page]["audio"])).duration == pytest.approx(found[page]["seconds"])
        assert found[page]["text"] == TEXTS[page]
    assert [found[page]["error_kind"] for page in (4, 5, 6)] == [None, "engine", "invalid"]
    by_job = {row["text"]: row["audio"] for row in pq.read_table(calm).to_pylist()}
    assert all(found[page]["audio"] == by_job[TEXTS[page]] for page in range(5))
