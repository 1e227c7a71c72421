"""Kills workers and drivers of a real `motet bulk` job, and compares what it wrote with an undisturbed job."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import pyarrow.parquet as pq
import yaml

from cluster.bulk.inputs import read_rows
from cluster.bulk.plan import Batch
from cluster.bulk.run import run_job
from cluster.bulk.store import JobStore
from cluster.bulk.workers import RenderedBatch, Worker, rendered_batch
from deployments.text.sample_sentences import numbered_sentences
from serve_app import bulk, config_file
from serve_app.bench.frame import Figure, Sheet, at_least, at_most
from serve_app.cli.processes import command_line, descendants, kill

MODEL = "hibari"
HIBARI = {"engine": "hibari", "source": "wheel:hibari-tts", "steps": {"max_batch_size": 1}}
WORKER_TITLE = "ray::MapWorker"
"""The process title of Ray Data's actors."""
RUN_TIMEOUT_S = 180.0
POLL_S = 0.02
KILLED_BATCH_ROWS = 4
ROWS, CONFIG = "rows.jsonl", "config.yaml"
LONGEST_DELAY_S = 1.0

MISSING, TWICE = "rows missing", "rows twice"
DIFFERENT, SUMMED = "rows that differ from the undisturbed job", "files that differ from the undisturbed job"
WORKER_KILLS, DRIVER_KILLS = "workers killed", "drivers killed"


def figures(kills: int) -> tuple[Figure, ...]:
    """The figures that `measure_kills` measures, with their targets."""
    return (
        Figure(WORKER_KILLS, "", at_least(kills / 2)),
        Figure(DRIVER_KILLS, "", at_least(kills / 2)),
        Figure(MISSING, "", at_most(0)),
        Figure(TWICE, "", at_most(0)),
        Figure(DIFFERENT, "", at_most(0)),
        Figure(SUMMED, "", at_most(0)),
    )


Victim = Literal["worker", "driver"]


@dataclass(frozen=True, slots=True)
class Kill:
    """Which process to kill, and when: `delay_s` after the share `progress` of the batches is done.

    A time in seconds alone would be a different stage of the job on every machine.
    """

    victim: Victim
    progress: float
    delay_s: float


def measure_kills(sheet: Sheet, rows: int, kills: int) -> None:
    """Measures `figures`: a job of `rows` rows that is killed `kills` times, and the same job undisturbed."""
    with tempfile.TemporaryDirectory(prefix="motet-bench-") as name:
        folder = Path(name)
        command = write_job(folder, rows, HIBARI)
        calm, rough = folder / "calm", folder / "rough"
        render_here(folder, calm)
        killed = run_killed(command, rough, rows, kill_plan(kills))
        compared = compare(calm, rough, rows)
    note = f"at {kills} seeded moments in all"
    victims: dict[str, Victim] = {WORKER_KILLS: "worker", DRIVER_KILLS: "driver"}
    for figure, victim in victims.items():
        sheet.put(figure, killed.count(victim), note)
    for figure, value in zip((MISSING, TWICE, DIFFERENT, SUMMED), compared, strict=True):
        sheet.put(figure, value, f"of {rows} rows")


def write_job(folder: Path, rows: int, model: Mapping[str, Any]) -> list[str]:
    """Writes an input and a configuration with one model and small batches; returns the command for them, without `-o`."""
    lines = [json.dumps({"id": f"row-{number}", "text": text}) for number, text in enumerate(numbered_sentences(rows))]
    (folder / ROWS).write_text("\n".join(lines) + "\n")
    settings = {
        "defaults": False,
        "models": {MODEL: dict(model)},
        "bulk": {"batch_rows": KILLED_BATCH_ROWS, "retries": 5},
    }
    (folder / CONFIG).write_text(yaml.safe_dump({"applications": [{"args": settings}]}))
    program = [sys.executable, "-m", "serve_app.cli.main", "bulk", str(folder / ROWS)]
    return [*program, "--layout", "parquet", "--config", str(folder / CONFIG)]


def render_here(folder: Path, output: Path) -> None:
    """Runs the job of `write_job` undisturbed, in this process, without a cluster."""
    job, _ = bulk.job_of(config_file.read_app(folder / CONFIG), "speech", MODEL, bulk.BulkOptions(), None)
    worker = Worker(job)

    def execute(batches: Sequence[Batch]) -> Iterator[RenderedBatch]:
        for batch in batches:
            outcomes = worker.render(batch.items, [None] * len(batch.items))
            yield rendered_batch(batch.name, batch.items, outcomes, job.model.model)

    run_job(read_rows([folder / ROWS], "speech", "line"), job, output, "parquet", execute, lambda now: None)


def kill_plan(kills: int, seed: int = 0) -> list[Kill]:
    """`kills` seeded kills, of workers and drivers in turn, from the start of the program to the last batches."""
    random = np.random.default_rng(seed)
    whom: list[Victim] = ["worker", "driver"]
    moments = np.sort(random.uniform(0.0, 0.9, kills))
    return [
        Kill(whom[number % 2], float(progress), float(random.uniform(0.0, LONGEST_DELAY_S)))
        for number, progress in enumerate(moments)
    ]


def run_killed(command: Sequence[str], output: Path, rows: int, kills: Sequence[Kill]) -> list[Victim]:
    """Runs the command until it succeeds, again after each kill of its driver; returns the kinds of killed processes.

    Raises `RuntimeError` if the command fails without a kill.
    """
    left, killed = deque(kills), list[Victim]()
    store, batches = JobStore(output), -(-rows // KILLED_BATCH_ROWS)
    finished = False
    while not finished:
        with running_job([*command, "-o", str(output)]) as program:
            finished = _until_end_or_kill(program, lambda: len(store.done()) / batches, left, killed)
    return killed


def _until_end_or_kill(
    program: subprocess.Popen[bytes], progress: Callable[[], float], left: deque[Kill], killed: list[Victim]
) -> bool:
    """Carries out the kills that are due. True if the program succeeded, False if it was killed."""
    began, due = time.perf_counter(), None
    while program.poll() is None:
        now = time.perf_counter()
        if now - began > RUN_TIMEOUT_S:
            raise RuntimeError("the job takes too long")
        if left and due is None and progress() >= left[0].progress:
            due = now + left[0].delay_s
        if due is not None and now >= due:
            victim = program if left[0].victim == "driver" else _a_worker_of(program.pid)
            if victim is not None:
                killed.append(left.popleft().victim)
                due = None
                with contextlib.suppress(psutil.NoSuchProcess):  # it may have ended by itself just now
                    victim.kill()
                if victim is program:
                    program.wait()
                    return False
        time.sleep(POLL_S)
    if program.returncode != 0:
        raise RuntimeError(f"the job ended with status {program.returncode}")
    return True


def _a_worker_of(pid: int) -> psutil.Process | None:
    """The first actor of the job's own cluster, if there is one by now."""
    titled = (p for p in descendants(pid) if any(part.startswith(WORKER_TITLE) for part in command_line(p)))
    return next(titled, None)


@contextmanager
def running_job(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Runs the program in its own process group. At the end, processes that it left behind are killed as well."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    program = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=environment
    )
    seen: dict[int, psutil.Process] = {}
    watching = threading.Event()

    def watch() -> None:
        while not watching.wait(POLL_S * 10):
            seen.update({process.pid: process for process in descendants(program.pid)})

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield program
    finally:
        watching.set()
        watcher.join()
        program.kill()
        program.wait()
        kill(seen.values(), RUN_TIMEOUT_S)


def compare(calm: Path, rough: Path, rows: int) -> tuple[int, int, int, int]:
    """The numbers of missing, repeated and differing rows, and of differing files, of an undisturbed and a killed job."""
    wanted = {f"row-{number}" for number in range(rows)}
    ids = [name for path in sorted(rough.glob("*.parquet")) for name in pq.read_table(path)["id"].to_pylist()]
    sounds, others = (
        {facts["id"]: facts for path in sorted(folder.glob("*.parquet")) for facts in pq.read_table(path).to_pylist()}
        for folder in (calm, rough)
    )
    files = {path.name for folder in (calm, rough) for path in folder.glob("*.parquet")}
    unlike = [name for name in files if _bytes(calm / name) != _bytes(rough / name)]
    differing = [name for name in wanted if sounds.get(name) != others.get(name) or not sounds[name]["audio"]]
    return len(wanted - set(ids)), len(ids) - len(set(ids)), len(differing), len(unlike)


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
