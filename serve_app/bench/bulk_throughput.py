"""The throughput of a bulk job beside that of bare engines on the same cores, round by round."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import mean
from typing import Any

import psutil

from cluster.bulk.job import BulkJob, BulkSpeechOrder, seed_of
from cluster.bulk.plan import Batch, WorkItem, cut_into_batches, item_of
from cluster.bulk.row import Row
from cluster.bulk.workers import RenderedBatch, render_on_cluster
from deployments.engines.protocols import SpeechRequest
from deployments.errors import fail
from deployments.replica.base import load_engine
from deployments.replica.cpu_scheduling import apply
from deployments.text.sample_sentences import numbered_sentences
from deployments.text.segmentation import cut_into_pieces
from serve_app import bulk, profiles
from serve_app.bench.frame import Figure, Sheet, at_least, interleaved, ratio, spread
from serve_app.cli import local
from serve_app.cli.processes import descendants
from serve_app.config import AppConfig

MODEL = "hibari"
ROWS_A_SECOND = 60
"""More rows than one engine synthesises in a second."""

SHARE = "bulk over the bare engine, both on all cores"
COST = "CPU a second of sound, bare engine over bulk"
BULK_PACE, BARE_PACE = "bulk", "bare engine"
FIGURES = (
    Figure(SHARE, "", at_least(0.9)),
    Figure(COST, ""),
    Figure(BULK_PACE, "x real time"),
    Figure(BARE_PACE, "x real time"),
)


def measure_throughput(sheet: Sheet, rounds: int, measured_s: float) -> None:
    """Measures `FIGURES` in a program of its own, because Ray reads its environment when it is imported."""
    environment = os.environ | profiles.ray_environment(os.environ) | {"RAY_BACKEND_LOG_LEVEL": "fatal"}
    environment.pop("RAY_ADDRESS", None)  # the measurement starts a cluster of its own
    command = [sys.executable, "-m", "serve_app.bench.bulk_throughput", str(rounds), str(measured_s)]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise fail("engine", f"The measurement failed: {done.stderr[-1000:]}")
    found: dict[str, list[tuple[float, float]]] = json.loads(done.stdout.splitlines()[-1])
    cores = local.usable_cores()
    paces, costs = ({name: [pair[at] for pair in pairs] for name, pairs in found.items()} for at in (0, 1))
    for name, values in paces.items():
        sheet.put(name, spread(values).p50, f"{cores} engines, {rounds} rounds; {spread(values)}")
    median = f"median of {rounds} rounds of {measured_s:.0f} s"
    share, cost = ratio(paces[BULK_PACE], paces[BARE_PACE]), ratio(costs[BARE_PACE], costs[BULK_PACE])
    sheet.put(SHARE, share.p50, f"{median}; {share}")
    sheet.put(COST, cost.p50, f"{median}; all of Ray and the driver counted; {cost}")


def paces_and_costs(rounds: int, measured_s: float) -> dict[str, list[tuple[float, float]]]:
    """For both variants, round by round: seconds of audio a second, and seconds of CPU for a second of audio."""
    app = AppConfig()
    job, hardware = bulk.job_of(app, "speech", MODEL, bulk.BulkOptions(), None)
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
    """More rows than `engines` engines synthesise in `seconds` and the two seconds before."""
    return ROWS_A_SECOND * engines * int(seconds + 2)


def batches_of(job: BulkJob, rows: int) -> list[Batch]:
    """The batches of a job with `rows` sentences."""
    items = [item_of(Row(str(number), text), job) for number, text in enumerate(numbered_sentences(rows))]
    return list(cut_into_batches(items, job.bulk))


@dataclass(frozen=True, slots=True)
class Throughput:
    """The seconds of audio that were made in some seconds, and the CPU seconds that they took."""

    seconds: float
    sound: float
    cpu_seconds: float


def steady(
    made: Iterator[RenderedBatch], workers: int, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> Throughput:
    """Measures rounds of one batch from each worker, after the first round, until they last `seconds` or more. The CPU time
    is that of this process and its children: the workers, the driver, and Ray itself.

    A round begins and ends at the mean arrival time of its batches. So each part of a batch counts once, whatever the offset
    between the workers. Raises `RuntimeError` if the job ends first.
    """
    with contextlib.closing(made):  # type: ignore[type-var]
        began = mean([_arrival(made, clock)[0] for _ in range(workers)])
        opened, used, sound = clock(), _cpu_of_all(), 0.0
        while True:
            arrivals = [_arrival(made, clock) for _ in range(workers)]
            sound += sum(one.seconds for _, one in arrivals)
            took = mean([at for at, _ in arrivals]) - began
            if took >= seconds:
                return Throughput(took, sound, (_cpu_of_all() - used) * took / (clock() - opened))


def _arrival(made: Iterator[RenderedBatch], clock: Callable[[], float]) -> tuple[float, RenderedBatch]:
    """The arrival time of the next batch, and the batch."""
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
def bare_engines(job: BulkJob, count: int) -> Iterator[Callable[[float], Throughput]]:
    """`count` processes with one engine each, for as long as the context. Gives a function that runs them for a time."""
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

        def work(seconds: float) -> Throughput:
            for pipe in pipes:
                pipe.send(seconds)
            done = [Throughput(*pipe.recv()) for pipe in pipes]
            pace = sum(one.sound / one.seconds for one in done)
            return Throughput(seconds, pace * seconds, sum(one.cpu_seconds * seconds / one.seconds for one in done))

        yield work
    finally:
        for process in processes:
            process.kill()
            process.join()


def _bare_engine(job_json: str, number: int, count: int, pipe: Connection) -> None:
    """Synthesises its share of the batches of a bulk job, from the first one on, and drops the audio."""
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
    """Synthesises some sentences as one batch; returns the seconds of audio."""
    assert isinstance(job.order, BulkSpeechOrder)
    voice, pieces = engine.traits.default_voice, job.order.pieces
    asked = [SpeechRequest(cut_into_pieces(item.text, pieces), voice, seed=seed_of(item.key)) for item in items]
    active = [engine.open(request) for request in asked]
    sound = 0.0
    while active:
        for chunk in engine.step(active):
            sound += chunk.seconds
        active = [utterance for utterance in active if not utterance.finished]
    return sound


if __name__ == "__main__":
    print(json.dumps(paces_and_costs(int(sys.argv[1]), float(sys.argv[2]))))
