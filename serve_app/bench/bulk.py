"""Bulk jobs: what Ray Data takes from the engine, and what `kill -9` leaves of a job.

Throughput is compared round by round: bare processes with an engine each, and a job with as many workers, on the same
cores with the same niceness, both once they are under way. The kills are seeded and meet real `motet bulk` programs at
every stage, from their start to the writing of the output; what comes out is compared, byte by byte, with what the same job
makes in one process that nobody kills and that knows no cluster.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
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
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import numpy as np
import psutil
import pyarrow.parquet as pq
import yaml

from cluster.bulk.job import BulkJob, SpeechOrder, seed_of
from cluster.bulk.plan import Batch, WorkItem, cut_into_batches, item_of
from cluster.bulk.rows import Row, read_rows
from cluster.bulk.run import run_job
from cluster.bulk.store import Store
from cluster.bulk.workers import Made, Worker, made_of, render_on_cluster
from deployments.engines.protocols import SpeechRequest
from deployments.errors import fail
from deployments.replica.base import load_engine
from deployments.replica.cpu_scheduling import apply
from deployments.text.segmentation import cut_into_pieces
from serve_app import config_file, profiles
from serve_app.bench.frame import Figure, Report, Sheet, at_least, at_most, carry_out, interleaved, ratio, spread
from serve_app.bench.sentences import SENTENCES
from serve_app.cli import bulk, local
from serve_app.cli.processes import command_line, descendants, kill
from serve_app.config import AppConfig

MODEL = "hibari"
HIBARI = {"engine": "hibari", "source": "wheel:hibari-tts", "steps": {"max_batch_size": 1}}
WORKER_TITLE = "ray::MapWorker"
"""How Ray Data's actors are named in the list of processes."""
ROWS_A_SECOND = 60
"""More than one engine speaks."""
RUN_TIMEOUT_S = 180.0
POLL_S = 0.02
KILLED_BATCH_ROWS = 4
ROWS, CONFIG = "rows.jsonl", "config.yaml"
LONGEST_DELAY_S = 1.0

SHARE = "bulk over the bare engine, both on all cores"
COST = "CPU a second of sound, bare engine over bulk"
BULK_PACE, BARE_PACE = "bulk", "bare engine"
MISSING, TWICE = "rows missing", "rows twice"
DIFFERENT, SUMMED = "rows that differ from the undisturbed job", "files that differ from the undisturbed job"
WORKER_KILLS, DRIVER_KILLS = "workers killed", "drivers killed"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    measured_s: float
    rows: int
    kills: int


QUICK = Plan(rounds=1, measured_s=3.0, rows=24, kills=2)
FULL = Plan(rounds=7, measured_s=10.0, rows=320, kills=20)


def run(quick: bool) -> Report:
    """Measures both; `quick` takes fewer rounds and kills."""
    plan = QUICK if quick else FULL

    def measure(sheet: Sheet) -> None:
        with sheet.measuring("throughput"):
            _measure_throughput(sheet, plan)
        with sheet.measuring(f"{plan.kills} kills"):
            _measure_kills(sheet, plan)

    return carry_out("bulk", _wanted(plan), measure, quick=quick)


def _wanted(plan: Plan) -> list[Figure]:
    return [
        Figure(SHARE, "", at_least(0.9)),
        Figure(COST, ""),
        Figure(BULK_PACE, "x real time"),
        Figure(BARE_PACE, "x real time"),
        Figure(WORKER_KILLS, "", at_least(plan.kills / 2)),
        Figure(DRIVER_KILLS, "", at_least(plan.kills / 2)),
        Figure(MISSING, "", at_most(0)),
        Figure(TWICE, "", at_most(0)),
        Figure(DIFFERENT, "", at_most(0)),
        Figure(SUMMED, "", at_most(0)),
    ]


def texts(count: int) -> Iterator[str]:
    """As many different sentences as wanted."""
    return (f"{number}: {SENTENCES[number % len(SENTENCES)]}" for number in range(count))


# --- Throughput


def _measure_throughput(sheet: Sheet, plan: Plan) -> None:
    """In a program of its own: Ray reads its environment when it is imported."""
    environment = os.environ | profiles.ray_environment(os.environ) | {"RAY_BACKEND_LOG_LEVEL": "fatal"}
    environment.pop("RAY_ADDRESS", None)  # a cluster that is already there is not what is measured
    command = [sys.executable, "-m", "serve_app.bench.bulk", str(plan.rounds), str(plan.measured_s)]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise fail("engine", f"The measurement failed: {done.stderr[-1000:]}")
    found: dict[str, list[tuple[float, float]]] = json.loads(done.stdout.splitlines()[-1])
    cores = local.usable_cores()
    paces, costs = ({name: [pair[at] for pair in pairs] for name, pairs in found.items()} for at in (0, 1))
    for name, values in paces.items():
        sheet.put(name, spread(values).p50, f"{cores} engines, {plan.rounds} rounds; {spread(values)}")
    rounds = f"median of {plan.rounds} rounds of {plan.measured_s:.0f} s"
    share, cost = ratio(paces[BULK_PACE], paces[BARE_PACE]), ratio(costs[BARE_PACE], costs[BULK_PACE])
    sheet.put(SHARE, share.p50, f"{rounds}; {share}")
    sheet.put(COST, cost.p50, f"{rounds}; all of Ray and the driver counted; {cost}")


def paces_and_costs(rounds: int, measured_s: float) -> dict[str, list[tuple[float, float]]]:
    """Of both variants, round by round: seconds of sound a second, and seconds of CPU for a second of sound."""
    app = AppConfig()
    job, hardware = bulk.job_of(app, "speech", MODEL, bulk.Wishes(), None)
    cores = local.usable_cores()
    costs: dict[str, list[float]] = {BULK_PACE: [], BARE_PACE: []}
    with bulk.cluster_for(job), bare_engines(job, cores) as bare:

        def bulk_pace() -> float:
            batches = batches_of(job, measured_rows(cores, measured_s))
            done = steady(render_on_cluster(batches, job, hardware, cores), cores, measured_s)
            costs[BULK_PACE].append(done.cpu_seconds / done.sound)
            return done.sound / done.seconds

        def bare_pace() -> float:
            done = bare(measured_s)
            costs[BARE_PACE].append(done.cpu_seconds / done.sound)
            return done.sound / done.seconds

        paces = interleaved({BULK_PACE: bulk_pace, BARE_PACE: bare_pace}, rounds)
    return {name: list(zip(paces[name], costs[name], strict=True)) for name in paces}


def measured_rows(engines: int, seconds: float) -> int:
    """More than so many engines speak in that time and a little before."""
    return ROWS_A_SECOND * engines * int(seconds + 2)


def batches_of(job: BulkJob, rows: int) -> list[Batch]:
    """The batches of a job with so many sentences."""
    items = [item_of(Row(str(number), text), job) for number, text in enumerate(texts(rows))]
    return list(cut_into_batches(items, job.bulk))


@dataclass(frozen=True, slots=True)
class Stretch:
    """What was done in some seconds: seconds of sound, with so many seconds of CPU."""

    seconds: float
    sound: float
    cpu_seconds: float


def steady(
    made: Iterator[Made], workers: int, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> Stretch:
    """As many rounds of a batch from each worker as last `seconds` or more, after the first one. The CPU is that of this
    process and all of its children: the workers, the driver, and Ray itself.

    A round begins and ends when its batches came on average: so no part of a batch is counted twice or not at all, whatever
    the distance between the workers.
    """
    with contextlib.closing(made):  # type: ignore[type-var]
        began = mean([_arrival(made, clock)[0] for _ in range(workers)])
        opened, used, sound = clock(), _cpu_of_all(), 0.0
        while True:
            arrivals = [_arrival(made, clock) for _ in range(workers)]
            sound += sum(one.seconds for _, one in arrivals)
            took = mean([at for at, _ in arrivals]) - began
            if took >= seconds:
                return Stretch(took, sound, (_cpu_of_all() - used) * took / (clock() - opened))


def _arrival(made: Iterator[Made], clock: Callable[[], float]) -> tuple[float, Made]:
    """When the next batch came, and the batch."""
    try:
        one = next(made)
    except StopIteration:
        raise RuntimeError("the job was over before it was measured") from None
    return clock(), one


def _cpu_of_all() -> float:
    total = 0.0
    for process in (psutil.Process(), *descendants(os.getpid())):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


@contextmanager
def bare_engines(job: BulkJob, count: int) -> Iterator[Callable[[float], Stretch]]:
    """Processes with an engine each, for as long as the context lasts. Gives what lets them work together for some
    seconds."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for number in range(count):
        ours, theirs = context.Pipe()
        process = context.Process(target=_bare_engine, args=(job.model_dump_json(), number, count, theirs), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        for pipe in pipes:
            pipe.recv()

        def work(seconds: float) -> Stretch:
            for pipe in pipes:
                pipe.send(seconds)
            done = [Stretch(*pipe.recv()) for pipe in pipes]
            pace = sum(one.sound / one.seconds for one in done)
            return Stretch(seconds, pace * seconds, sum(one.cpu_seconds * seconds / one.seconds for one in done))

        yield work
    finally:
        for process in processes:
            process.kill()
            process.join()


def _bare_engine(job_json: str, number: int, count: int, pipe: Connection) -> None:
    """Speaks its share of the same batches as a bulk job, from the first one on, and does nothing with them."""
    job = BulkJob.model_validate_json(job_json)
    apply(job.model.scheduling.model_copy(update={"nice": job.bulk.nice}))
    engine, width = load_engine(job.model), job.model.steps.max_batch_size
    pipe.send(True)
    while True:
        seconds = pipe.recv()
        mine = batches_of(job, measured_rows(count, seconds))[number::count]
        items = [item for batch in mine for item in batch.items]
        together = iter([items[at : at + width] for at in range(0, len(items), width)])
        began, used, sound = time.perf_counter(), time.process_time(), 0.0
        while (elapsed := time.perf_counter() - began) < seconds:
            sound += _one_batch(engine, job, next(together))
        pipe.send((elapsed, sound, time.process_time() - used))


def _one_batch(engine: Any, job: BulkJob, items: Sequence[WorkItem]) -> float:
    """Speaks some sentences together; returns the seconds of sound."""
    assert isinstance(job.order, SpeechOrder)
    voice, pieces = engine.traits.default_voice, job.order.pieces
    asked = [SpeechRequest(cut_into_pieces(item.text, pieces), voice, seed=seed_of(item.key)) for item in items]
    active = [engine.open(request) for request in asked]
    sound = 0.0
    while active:
        for chunk in engine.step(active):
            sound += chunk.seconds
        active = [utterance for utterance in active if not utterance.finished]
    return sound


# --- Kills


Victim = Literal["worker", "driver"]


@dataclass(frozen=True, slots=True)
class Kill:
    """Whom to kill, and when: `delay_s` after this share of the batches is done. Seconds alone would mean another moment
    on every machine."""

    victim: Victim
    progress: float
    delay_s: float


def _measure_kills(sheet: Sheet, plan: Plan) -> None:
    with tempfile.TemporaryDirectory(prefix="motet-bench-") as name:
        folder = Path(name)
        command = write_job(folder, plan.rows, HIBARI)
        calm, rough = folder / "calm", folder / "rough"
        render_here(folder, calm)
        killed = run_killed(command, rough, plan.rows, kill_plan(plan.kills))
        compared = compare(calm, rough, plan.rows)
    note = f"at {plan.kills} seeded moments in all"
    victims: dict[str, Victim] = {WORKER_KILLS: "worker", DRIVER_KILLS: "driver"}
    for figure, victim in victims.items():
        sheet.put(figure, killed.count(victim), note)
    for figure, value in zip((MISSING, TWICE, DIFFERENT, SUMMED), compared, strict=True):
        sheet.put(figure, value, f"of {plan.rows} rows")


def write_job(folder: Path, rows: int, model: Mapping[str, Any]) -> list[str]:
    """An input, a configuration with one model and small batches, and the command for them, without its `-o`."""
    lines = [json.dumps({"id": f"row-{number}", "text": text}) for number, text in enumerate(texts(rows))]
    (folder / ROWS).write_text("\n".join(lines) + "\n")
    settings = {"models": {MODEL: dict(model)}, "bulk": {"batch_rows": KILLED_BATCH_ROWS, "retries": 5}}
    (folder / CONFIG).write_text(yaml.safe_dump({"applications": [{"args": settings}]}))
    program = [sys.executable, "-m", "serve_app.cli.main", "bulk", str(folder / ROWS)]
    return [*program, "--config", str(folder / CONFIG)]


def render_here(folder: Path, output: Path) -> None:
    """The job of `write_job`, undisturbed: in this process, without a cluster."""
    job, _ = bulk.job_of(config_file.read_app(folder / CONFIG), "speech", MODEL, bulk.Wishes(), None)
    worker = Worker(job)

    def execute(batches: Sequence[Batch]) -> Iterator[Made]:
        for batch in batches:
            outcomes = worker.render(batch.items, [None] * len(batch.items))
            yield made_of(batch.name, batch.items, outcomes, job.model.model)

    run_job(read_rows([folder / ROWS], "speech", "line"), job, output, "parquet", execute, lambda now: None)


def kill_plan(kills: int, seed: int = 0) -> list[Kill]:
    """As many workers as drivers, each at a moment of its own, from the start of the program to the last batches."""
    random = np.random.default_rng(seed)
    whom: list[Victim] = ["worker", "driver"]
    moments = np.sort(random.uniform(0.0, 0.9, kills))
    return [
        Kill(whom[number % 2], float(progress), float(random.uniform(0.0, LONGEST_DELAY_S)))
        for number, progress in enumerate(moments)
    ]


def run_killed(command: Sequence[str], output: Path, rows: int, kills: Sequence[Kill]) -> list[Victim]:
    """Runs the command until it succeeds, again after each kill of its driver; returns who was killed.

    Raises `RuntimeError` when it fails by itself.
    """
    left, killed = deque(kills), list[Victim]()
    store, batches = Store(output), -(-rows // KILLED_BATCH_ROWS)
    finished = False
    while not finished:
        with running_job([*command, "-o", str(output)]) as program:
            finished = _until_end_or_kill(program, lambda: len(store.done()) / batches, left, killed)
    return killed


def _until_end_or_kill(
    program: subprocess.Popen[bytes], progress: Callable[[], float], left: deque[Kill], killed: list[Victim]
) -> bool:
    """Carries out the kills that are due. True when the program ended well, False when it was killed."""
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
    """The program in a group of its own. What a killed one leaves behind is killed too: the next must not meet it."""
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
    """Rows missing, rows twice, rows that differ, and files that differ, of a disturbed job against an undisturbed one."""
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


if __name__ == "__main__":
    print(json.dumps(paces_and_costs(int(sys.argv[1]), float(sys.argv[2]))))
