"""Runs a bulk job from its rows to its files: plans, renders what is missing, and writes the output.

An interruption, even with `kill -9`, loses only the batches that are being rendered.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.bulk.failed_rows import FailedRow, FailedRows
from cluster.bulk.job import BulkJob
from cluster.bulk.other_columns import as_json
from cluster.bulk.output import refuse_to_overwrite, results_of, write_folder, write_parquet
from cluster.bulk.plan import Batch, WorkItem, cut_into_batches, given_of, item_of
from cluster.bulk.results import RESULT, Outcome, table_of
from cluster.bulk.row import Row, is_text
from cluster.bulk.settings import Layout
from cluster.bulk.store import JobStore, part_bytes
from cluster.bulk.workers import RenderedBatch
from deployments.errors import Failure, fail

Execute = Callable[[Sequence[Batch]], Iterator[RenderedBatch]]
"""Renders batches, in any order. It leaves out those whose worker died too often."""

DIED = Failure(
    "unavailable",
    "Every worker that rendered this row died.",
    "Check whether the row is unusual, for example very long.",
)
FAULTS = "faults"
"""The part with the rows that could not be read."""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """A job's progress. Rows and sizes (characters or bytes) are of all runs, `seconds` of sound and `failed` of this one.

    Equal rows are rendered once and are done at the same time; `size` counts them once.
    """

    rows: int
    of_rows: int
    size: int
    of_size: int
    new_size: int
    seconds: float
    failed: int


@dataclass(frozen=True, slots=True)
class JobSummary:
    """A finished job's totals."""

    rows: int
    failed: int
    stopped: int
    """Rows in which the model was stopped before its own end."""
    faulty: int
    """Rows with a piece that still has a fault after it was made again."""
    seconds: float
    made_seconds: float
    files: tuple[str, ...]
    failures: tuple[FailedRow, ...] = ()
    """The first rows that failed; all of them are in `failed.jsonl`."""


def run_job(
    rows: Iterable[Row],
    job: BulkJob,
    output: Path,
    layout: Layout,
    execute: Execute,
    progress: Callable[[JobProgress], None],
) -> JobSummary:
    """Runs a job, or resumes it.

    Raises `MotetError` if the folder has another job or foreign files, or if no row can be rendered.
    """
    store = JobStore(output)
    if store.record is None:
        refuse_to_overwrite(output, layout, job.order.task)
    plan = _Plan.of(rows, job)
    with store.locked():
        record = store.record
        fingerprint = plan.fingerprint(job, layout)
        if record is not None and record["fingerprint"] != fingerprint:
            cause = f"{output} has another job: its input, settings, weights, way or version of Motet are different."
            raise fail("invalid", cause, "Name another folder, or remove this one.", code="another_job")
        if record is not None and (finished := _finished(record, output)):
            store.forget(store.done())  # the job may have been interrupted before it did this
            return finished
        if record is None:
            store.write_record({"fingerprint": fingerprint})
        made_seconds = _make(plan, store, execute, progress)
        return _write(plan, store, job, layout, made_seconds, fingerprint)


@dataclass(frozen=True, slots=True)
class _Plan:
    """Every row's id and key, and the batches. It holds texts in memory, and no sound."""

    rows: tuple[tuple[str, str], ...]
    batches: tuple[Batch, ...]
    faults: Mapping[str, str]
    given: Mapping[str, Mapping[str, Any]]
    """The text and the voice of what failed, by key."""
    others: tuple[Mapping[str, Any], ...]
    """The other columns of each row."""
    files: tuple[str, ...]
    """The absolute path of each recording that is a file of its own."""
    model: str

    @classmethod
    def of(cls, rows: Iterable[Row], job: BulkJob) -> _Plan:
        named: list[tuple[str, str]] = []
        items: dict[str, WorkItem] = {}
        faults: dict[str, str] = {}
        given: dict[str, Mapping[str, Any]] = {}
        others: list[Mapping[str, Any]] = []
        files: list[str] = []
        for row in rows:
            if row.fault:
                key = job.key(f"fault of {row.id}: {row.fault}")
                faults[key] = row.fault
                given[key] = {"text": row.text or None, "voice": row.voice}
            else:
                item = item_of(row, job)
                key = item.key
                items.setdefault(key, item)
            named.append((row.id, key))
            others.append(row.others)
            files.append(row.file)
        batches = tuple(cut_into_batches(items.values(), job.bulk))
        return cls(tuple(named), batches, faults, given, tuple(others), tuple(files), job.model.model)

    def given_again(self) -> Iterator[Mapping[str, Any]]:
        """What another job needs of each row besides its text: the other columns, and `path`, which a table may have had
        relative to its own folder."""
        for others, file in zip(self.others, self.files, strict=True):
            yield {**others, "path": file} if file and is_text(file) else others

    def fingerprint(self, job: BulkJob, layout: Layout) -> str:
        digest = hashlib.sha256(f"{job.identity}\0{job.way}\0{job.version}\0{job.weights}\0".encode())
        for (name, key), others in zip(self.rows, self.others, strict=True):
            digest.update(f"{name}\0{key}\0{as_json(others)}\0".encode())
        for batch in self.batches:
            digest.update(batch.name.encode())
        digest.update(f"{layout} {job.written} {job.bulk.shard_bytes} {' '.join(RESULT.names)}".encode())
        return digest.hexdigest()


def _make(plan: _Plan, store: JobStore, execute: Execute, progress: Callable[[JobProgress], None]) -> float:
    """Renders what is missing. Returns the seconds of sound that this run made."""
    done = store.done()
    if plan.faults and FAULTS not in done:
        outcomes: list[tuple[str, Outcome]] = [(k, Failure("invalid", fault)) for k, fault in plan.faults.items()]
        store.put(FAULTS, part_bytes(table_of(outcomes, plan.model, plan.given)))
    tally = _ProgressCounter(plan, done, progress)
    missing = [batch for batch in plan.batches if batch.name not in done]
    for made in _passes(missing, execute, plan.model):
        store.put(made.name, made.part)
        tally.add(made)
    return tally.seconds


def _passes(missing: Sequence[Batch], execute: Execute, model: str) -> Iterator[RenderedBatch]:
    """The batches, then the items of those whose workers died too often. Each of these runs alone, so that only the fatal
    one is lost."""
    left = {batch.name: batch for batch in missing}
    if left:
        for made in execute(missing):
            del left[made.name]
            yield made
    if left:
        yield from _alone(list(left.values()), execute, model)


def _alone(batches: Sequence[Batch], execute: Execute, model: str) -> Iterator[RenderedBatch]:
    """Each batch as soon as its items are there, so that only the sound of unfinished batches is held."""
    batch_of = {single.name: batch for batch in batches for single in batch.singles()}
    held: dict[str, dict[str, RenderedBatch]] = {batch.name: {} for batch in batches}
    for made in execute([single for batch in batches for single in batch.singles()]):
        batch = batch_of[made.name]
        held[batch.name][made.name] = made
        if len(held[batch.name]) == len(batch.items):
            yield _joined(batch, held.pop(batch.name), model)
    yield from (_joined(batch, held.pop(batch.name), model) for batch in batches if batch.name in held)


def _joined(batch: Batch, alone: Mapping[str, RenderedBatch], model: str) -> RenderedBatch:
    """The batch as one part, from items that ran alone. An item without a part has killed its worker again."""
    found = [alone.get(single.name) for single in batch.singles()]
    tables = [
        table_of([(item.key, DIED)], model, given_of([item])) if made is None else _table(made)
        for item, made in zip(batch.items, found, strict=True)
    ]
    failed = sum(1 if made is None else made.failed for made in found)
    seconds = sum(made.seconds for made in found if made is not None)
    return RenderedBatch(batch.name, part_bytes(pa.concat_tables(tables)), failed, seconds, batch.size)


def _table(made: RenderedBatch) -> pa.Table:
    return pa.ipc.open_file(pa.py_buffer(made.part)).read_all()


class _ProgressCounter:
    """Counts what is done, and reports it."""

    def __init__(self, plan: _Plan, done: set[str], tell: Callable[[JobProgress], None]) -> None:
        self._batches = {batch.name: batch for batch in plan.batches}
        self._tell = tell
        self._rows_of = Counter(key for _, key in plan.rows)
        self._of_rows = len(plan.rows)
        self._of_size = sum(batch.size for batch in plan.batches)
        finished = [batch for batch in plan.batches if batch.name in done]
        self._failed = sum(self._rows_of[key] for key in plan.faults)
        self._rows = self._failed + sum(self._rows_in(batch) for batch in finished)
        self._size = sum(batch.size for batch in finished)
        self._new = 0
        self.seconds = 0.0
        self._say()

    def add(self, made: RenderedBatch) -> None:
        batch = self._batches[made.name]
        self._rows += self._rows_in(batch)
        self._size += batch.size
        self._new += batch.size
        self._failed += self._failed_rows(made)
        self.seconds += made.seconds
        self._say()

    def _rows_in(self, batch: Batch) -> int:
        return sum(self._rows_of[item.key] for item in batch.items)

    def _failed_rows(self, made: RenderedBatch) -> int:
        if not made.failed:
            return 0
        keys, kinds = (_table(made).column(name).to_pylist() for name in ("key", "error_kind"))
        return sum(self._rows_of[key] for key, kind in zip(keys, kinds, strict=True) if kind is not None)

    def _say(self) -> None:
        self._tell(
            JobProgress(self._rows, self._of_rows, self._size, self._of_size, self._new, self.seconds, self._failed)
        )


def _write(
    plan: _Plan, store: JobStore, job: BulkJob, layout: Layout, made_seconds: float, fingerprint: str
) -> JobSummary:
    places, outcomes = _places(plan, store)
    failed = FailedRows()
    results = failed.watched(results_of(plan.rows, places, store.part), plan.given_again())
    written = (
        write_parquet(results, plan.others, store.output, job.bulk.shard_bytes)
        if layout == "parquet"
        else write_folder(results, plan.others, store.output, job.order)
    )
    written += failed.write(store.output)
    keys = [key for _, key in plan.rows]
    files = {str(path.relative_to(store.output)): path.stat().st_size for path in written}
    found = [outcomes[key] for key in keys]
    summary = JobSummary(
        rows=len(keys),
        failed=sum(outcome.failed for outcome in found),
        stopped=sum(outcome.stopped for outcome in found),
        faulty=sum(outcome.faulty for outcome in found),
        seconds=math.fsum(outcome.seconds for outcome in found),
        made_seconds=made_seconds,
        files=tuple(files),
        failures=failed.named,
    )
    totals = {name: getattr(summary, name) for name in ("rows", "failed", "stopped", "faulty", "seconds")}
    totals["failures"] = [asdict(failure) for failure in summary.failures]
    store.write_record({"fingerprint": fingerprint, "finished": totals, "files": files})
    store.forget(store.done())
    return summary


@dataclass(frozen=True, slots=True)
class _KeySummary:
    """What the summary needs of one key."""

    failed: bool
    stopped: bool
    faulty: bool
    seconds: float


def _places(plan: _Plan, store: JobStore) -> tuple[dict[str, tuple[str, int, int]], dict[str, _KeySummary]]:
    """Where each key's results are, and what became of it."""
    places: dict[str, tuple[str, int, int]] = {}
    summaries: dict[str, _KeySummary] = {}
    for name in [*([FAULTS] if plan.faults else []), *(batch.name for batch in plan.batches)]:
        table = store.part(name).select(["key", "seconds", "error_kind", "finish_reason", "quality"])
        for at, facts in enumerate(table.to_pylist()):
            key = facts["key"]
            _, start, count = places.get(key, (name, at, 0))
            places[key] = (name, start, count + 1)
            stopped = facts["finish_reason"] not in (None, "stop")
            faulty = bool((facts["quality"] or {}).get("faulty"))
            summaries[key] = _KeySummary(facts["error_kind"] is not None, stopped, faulty, facts["seconds"] or 0.0)
    return places, summaries


def _finished(record: Mapping[str, Any], output: Path) -> JobSummary | None:
    """The summary of a finished job if all its files are there. If some are missing, the job runs again, since its parts
    are gone."""
    files = record.get("files", {})
    whole = all((output / name).is_file() and (output / name).stat().st_size == size for name, size in files.items())
    if "finished" not in record or not whole:
        return None
    totals = dict(record["finished"])
    failures = tuple(FailedRow(**failure) for failure in totals.pop("failures"))
    return JobSummary(**totals, made_seconds=0.0, files=tuple(files), failures=failures)
