"""Renders batches with Ray Data: actors that hold an engine each, on the machines that have room for one.

Workers write no files. Their results come back through the object store, so no shared disk is needed, and Ray Data pauses
them while results are not fetched.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from cluster.bulk.binary_column import binary_column, cells_of
from cluster.bulk.job import BulkJob
from cluster.bulk.plan import Batch, WorkItem, from_json, given_of, item_of, to_json
from cluster.bulk.rendering import Renderer, renderer_of
from cluster.bulk.results import RESULT, Outcome, table_of
from cluster.bulk.row import RecordingSource, read_recording
from cluster.bulk.spooled_bytes import Data
from cluster.bulk.store import part_bytes
from cluster.bulk.tables import check_needed, row_of
from cluster.hardware import HardwareClass
from deployments.engines.registry import Task
from deployments.errors import Failure, MotetError, fail
from deployments.replica.base import load_engine
from deployments.replica.cpu_scheduling import apply
from deployments.replica.malloc_trim import MallocTrim, keep_freed_memory

NODE_LABEL = "ray.io/node-id"
INIT_DEATHS = 5
"""Workers that may die in a row while they load."""
READERS = 2
"""Tasks that read recordings at the same time."""

SENT = pa.schema(
    [
        ("name", pa.string()),
        ("items", pa.string()),
        ("recordings", pa.list_(pa.large_binary())),
        ("faults", pa.list_(pa.string())),
    ]
)
"""A batch on its way to a worker. `recordings` and `faults` are filled on the machine that has the input."""
RENDERED = pa.schema(
    [
        ("name", pa.string()),
        ("part", pa.large_binary()),
        ("failed", pa.int64()),
        ("seconds", pa.float64()),
        ("size", pa.int64()),
        ("refused", pa.string()),
    ]
)
"""A batch on its way back. `refused` says why the worker cannot render anything; all others have the same reason."""


@dataclass(frozen=True, slots=True)
class RenderedBatch:
    """A finished batch: its part file, the number of items that failed, the seconds of sound in it, and its size."""

    name: str
    part: Data
    failed: int
    seconds: float
    size: int


def rendered_batch(name: str, items: Sequence[WorkItem], outcomes: Sequence[Outcome], model: str) -> RenderedBatch:
    """A finished batch from the outcomes of its items."""
    keyed = [(item.key, outcome) for item, outcome in zip(items, outcomes, strict=True)]
    failed = [outcome for outcome in outcomes if not isinstance(outcome, Sequence)]
    # The stems of a recording are as long as it is, and count once.
    seconds = sum(outcome[0].seconds for outcome in outcomes if isinstance(outcome, Sequence) and outcome)
    size = sum(item.size for item in items)
    return RenderedBatch(name, part_bytes(table_of(keyed, model, given_of(items))), len(failed), seconds, size)


def rendered_table(made: Sequence[RenderedBatch]) -> pa.Table:
    """Batches on their way back, as a `RENDERED` table."""
    facts = [{name: getattr(batch, name) for name in ("name", "failed", "seconds", "size")} for batch in made]
    parts = binary_column([batch.part for batch in made])
    return pa.Table.from_pylist(facts, schema=RENDERED).set_column(1, RENDERED.field("part"), parts)


def batches_in(table: pa.Table) -> Iterator[RenderedBatch]:
    """The batches of a `RENDERED` table. Their parts stay where they are, in the object store. Raises `MotetError` if the
    worker could not render anything."""
    rows = table.drop_columns(["part"]).to_pylist()
    for facts, part in zip(rows, cells_of(table.column("part")), strict=True):
        if refused := facts.pop("refused"):
            raise fail("unavailable", refused)
        assert part is not None, "a batch that was rendered has a part"
        yield RenderedBatch(part=part, **facts)


class Worker:
    """An actor of the pool. It loads and calls the engine on one thread, with a lower priority than live traffic."""

    def __init__(self, job: BulkJob) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bulk")
        self._job = job
        self._heap = MallocTrim(keep_freed_memory())
        self._renderer = self._thread.submit(self._load).result()

    def _load(self) -> Renderer | MotetError:
        scheduling = self._job.model.scheduling.model_copy(update={"fifo_priority": None, "nice": self._job.bulk.nice})
        apply(scheduling)  # before the engine is loaded, so that its own threads inherit it
        try:
            return renderer_of(self._job, load_engine(self._job.model))
        except MotetError as error:
            return error  # an exception here would end the actor, and Ray would start another

    def __call__(self, sent: pa.Table) -> pa.Table:
        """Renders the batches of a `SENT` table, to a `RENDERED` table."""
        if isinstance(self._renderer, MotetError):
            return pa.Table.from_pylist([{"refused": str(self._renderer)}], schema=RENDERED)
        try:
            return rendered_table([self._made(facts) for facts in sent.to_pylist()])
        except MotetError as error:  # such as a full disk, which ends the run; an exception would be tried again
            return pa.Table.from_pylist([{"refused": str(error)}], schema=RENDERED)

    def render(self, items: Sequence[WorkItem], recordings: Sequence[bytes | None]) -> list[Outcome]:
        """Renders items on the engine's thread. Raises `MotetError` if the engine could not be loaded."""
        if isinstance(self._renderer, MotetError):
            raise self._renderer
        outcomes = self._thread.submit(self._renderer.render, items, recordings).result()
        self._heap.look()
        return outcomes

    def _made(self, facts: dict[str, Any]) -> RenderedBatch:
        items = from_json(facts["items"])
        recordings, faults = facts["recordings"], facts["faults"]
        good = [at for at in range(len(items)) if faults[at] is None]
        rendered = iter(self.render([items[at] for at in good], [recordings[at] for at in good]))
        outcomes = [next(rendered) if fault is None else Failure("invalid", fault) for fault in faults]
        return rendered_batch(facts["name"], items, outcomes, self._job.model.model)


READ: Mapping[Task, tuple[str, ...]] = {
    "speech": ("text", "voice"),
    "transcription": ("audio",),
    "separation": ("audio",),
}
"""Columns of a user's table that a task reads and that results have too. Those of the result replace them."""


def check_columns(columns: Sequence[str], task: Task) -> None:
    """Raises `MotetError` (invalid) if a result would replace a column that the task does not read, or if a needed column
    is missing. `columns` is empty if the table is not known yet, or has no rows."""
    if columns:
        check_needed(columns, task, "The table", "audio")
    clashing = [name for name in columns if name in RESULT.names and name not in READ[task]]
    if clashing:
        cause = f"The table has columns with the names of result columns: {', '.join(clashing)}."
        example = f"ds.rename_columns({{{clashing[0]!r}: {'my_' + clashing[0]!r}}})"
        raise fail("invalid", cause, f"Rename them first, or drop them: {example}.")


class TableWorker(Worker):
    """A worker for a user's Ray dataset: rows in, the same rows with their results out."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Renders a table with `text` (and perhaps `voice`), or with `audio` (bytes) or `path`. A row that failed keeps its
        text and voice. Raises `MotetError` for columns that are named like a result's."""
        check_columns(table.column_names, self._job.order.task)
        given = table.drop_columns([name for name in RESULT.names if name in table.column_names])
        facts = table.to_pylist()
        outcomes = self._outcomes(facts)
        results = table_of(outcomes, self._job.model.model)
        if self._job.order.task == "speech":  # one result for each row
            results = _with_what_was_given(results, facts)
        counts = [len(outcome) if isinstance(outcome, Sequence) else 1 for _, outcome in outcomes]
        rows = [at for at, count in enumerate(counts) for _ in range(count)]
        return pa.Table.from_arrays(
            [*given.take(rows).columns, *results.columns], names=[*given.column_names, *RESULT.names]
        )

    def _outcomes(self, rows: Sequence[dict[str, Any]]) -> list[tuple[str, Outcome]]:
        """Outcomes in the order of the rows. Items are rendered longest first, so that those in one step of the engine are
        alike."""
        items: dict[int, WorkItem] = {}
        sounds: dict[int, bytes | None] = {}
        outcomes: dict[int, Outcome] = {}
        for at, facts in enumerate(rows):
            row = row_of(facts, self._job.order.task)
            try:
                if row.fault:
                    raise fail("invalid", row.fault)
                sounds[at] = None if row.recording is None else _sound(facts, row.recording)
                items[at] = item_of(row, self._job)
            except MotetError as error:
                outcomes[at] = error.failure
        longest_first = sorted(items, key=lambda at: -items[at].size)
        rendered = self.render([items[at] for at in longest_first], [sounds[at] for at in longest_first])
        outcomes |= zip(longest_first, rendered, strict=True)
        return [(items[at].key if at in items else "", outcomes[at]) for at in range(len(rows))]


def _with_what_was_given(results: pa.Table, facts: Sequence[Mapping[str, Any]]) -> pa.Table:
    for name in READ["speech"]:
        made = results.column(name).to_pylist()
        values = [row.get(name) if value is None else value for value, row in zip(made, facts, strict=True)]
        text = pa.array([None if value is None else str(value) for value in values], pa.string())
        results = results.set_column(results.column_names.index(name), name, text)
    return results


def _sound(facts: dict[str, Any], recording: RecordingSource) -> bytes:
    sound = facts.get("audio")
    return sound if isinstance(sound, bytes) else read_recording(recording)


# --- One pass over the batches


def render_on_cluster(
    batches: Sequence[Batch], job: BulkJob, hardware: HardwareClass, workers: int
) -> Iterator[RenderedBatch]:
    """Each batch as it is finished, in any order. A batch whose worker died too often is left out.

    Raises `MotetError` if no worker can load the model, or none stays alive.
    """
    try:
        yield from _rendered(batches, job, hardware, workers)
    except RayError as error:
        cause = f"The cluster could not do the work: {type(error).__name__}: {error}"
        raise fail("unavailable", cause, "Run the command again to resume.") from error


def _rendered(batches: Sequence[Batch], job: BulkJob, hardware: HardwareClass, workers: int) -> Iterator[RenderedBatch]:
    with _own_context():
        dataset = _dataset(batches)
        made = map_with_workers(
            dataset if job.order.task == "speech" else with_recordings(dataset),
            Worker,
            job,
            hardware,
            batch_size=1,
            compute=ActorPoolStrategy(size=min(workers, len(batches)), max_tasks_in_flight_per_actor=2),
        )
        blocks: Iterable[Any] = made.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        for block in blocks:
            yield from batches_in(block)


def map_with_workers(
    dataset: Dataset,
    worker: type[Worker],
    job: BulkJob,
    hardware: HardwareClass,
    *,
    batch_size: int,
    compute: ActorPoolStrategy,
) -> Dataset:
    """Sends the dataset through workers on a hardware class. A batch whose worker died is repeated `retries` times."""
    lives: dict[str, Any] = {"max_restarts": -1, "max_task_retries": job.bulk.retries}
    with warnings.catch_warnings():
        # Ray 2.60 deprecates these two arguments, and has no other way yet to bound its retries.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return dataset.map_batches(
            worker,
            fn_constructor_args=(job,),
            batch_size=batch_size,
            batch_format="pyarrow",
            compute=compute,
            **hardware.actor_options(),
            **lives,
        )


def _dataset(batches: Sequence[Batch]) -> Dataset:
    """A dataset with one block for each batch, so that each is a task and comes back alone."""
    return ray.data.from_arrow([_sent(batch) for batch in batches])


def _sent(batch: Batch) -> pa.Table:
    nothing = [None] * len(batch.items)  # speech has no recordings
    facts = {"name": batch.name, "items": to_json(batch.items), "recordings": nothing, "faults": nothing}
    return pa.Table.from_pylist([facts], schema=SENT)


def with_recordings(dataset: Dataset) -> Dataset:
    """Adds the bytes of recordings, on the machine on which the job was started. No other machine needs the files."""
    here = {NODE_LABEL: ray.get_runtime_context().get_node_id()}
    readers = TaskPoolStrategy(size=READERS)  # they reserve no CPU, so Ray would start all of them at once
    return dataset.map_batches(
        _read, batch_size=None, batch_format="pyarrow", num_cpus=0, label_selector=here, compute=readers
    )


def _read(sent: pa.Table) -> pa.Table:
    rows = sent.to_pylist()
    for facts in rows:
        found = [_bytes_or_fault(item) for item in from_json(facts["items"])]
        facts["recordings"] = [data for data, _ in found]
        facts["faults"] = [fault for _, fault in found]
    return pa.Table.from_pylist(rows, schema=SENT)


def _bytes_or_fault(item: WorkItem) -> tuple[bytes | None, str | None]:
    if item.recording is None:
        return None, None
    try:
        return read_recording(item.recording), None
    except MotetError as error:
        return None, str(error)


@contextmanager
def _own_context() -> Iterator[None]:
    """Ray Data's settings for a job: quiet, in any order, and continuing when a worker dies too often on a batch."""
    context = DataContext.get_current()
    wanted: dict[str, Any] = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "max_errored_blocks": -1,
        "max_consecutive_actor_init_deaths": INIT_DEATHS,
        "memory_usage_poll_interval_s": None,  # unused, and each poll costs milliseconds
    }
    kept = {name: getattr(context, name) for name in wanted}
    log = logging.getLogger("ray.data")
    level = log.level
    log.setLevel(logging.CRITICAL)  # a batch that is left out is repeated later
    for name, value in wanted.items():
        setattr(context, name, value)
    try:
        with warnings.catch_warnings():
            # Such as advice about the number of tasks, which a job's user cannot follow.
            warnings.filterwarnings("ignore", category=UserWarning, module=r"ray\.data")
            yield
    finally:
        log.setLevel(level)
        for name, value in kept.items():
            setattr(context, name, value)
