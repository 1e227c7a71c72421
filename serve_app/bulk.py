"""Bulk jobs by the names of the configuration's models: what `motet bulk` runs, and a few lines for notebooks.

import ray
from serve_app import bulk as motet_bulk

ray.init("local")  # or ray.init(), for the cluster of RAY_ADDRESS
ds = motet_bulk.synthesize(ray.data.read_csv("lines.csv"), model="hibari", voice="heart")
ds.write_parquet("spoken")

Without `ray.init`, `ray.data` would join whatever cluster was last started on this machine, and wait for minutes where
that one is gone. The columns of a table stay as they are, beside those of the results; one that is named like a result's
and that the task does not read is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray
from ray.data import ActorPoolStrategy, Dataset

from cluster import address as cluster_address
from cluster.bulk.inputs import Split, read_rows
from cluster.bulk.job import BulkJob, BulkOrder, BulkSeparationOrder, BulkSpeechOrder, BulkTranscriptionOrder, Way
from cluster.bulk.output import refuse_inputs_in_output
from cluster.bulk.plan import Batch
from cluster.bulk.run import JobProgress, JobSummary, run_job
from cluster.bulk.service_rendering import ServiceClient, render_on_service
from cluster.bulk.settings import Layout
from cluster.bulk.transcripts import WITH_WORDS, TranscriptForm
from cluster.bulk.workers import RenderedBatch, TableWorker, check_columns, map_with_workers, render_on_cluster
from cluster.hardware import HardwareClass
from cluster.models import Model, Placement, find_model
from deployments.audio.formats import AudioFormat
from deployments.engines.registry import Task
from deployments.errors import fail
from deployments.replica.base import ReplicaSettings
from serve_app.config import AppConfig
from serve_app.replica_settings import replica_settings


@dataclass(frozen=True, slots=True)
class BulkOptions:
    """Options of a job. None is the default of the model or the configuration. Each task uses those that it has."""

    voice: str | None = None
    speed: float = 1.0
    seed: int = 0
    form: AudioFormat = "wav"
    language: str | None = None
    prompt: str | None = None
    word_times: bool = False
    stems: tuple[str, ...] = ()
    chunk_seconds: float | None = None
    overlap_seconds: float | None = None
    lexicon: Mapping[str, str] = field(default_factory=dict)
    normalize: bool | Mapping[str, bool] | None = None
    verify: bool = False
    sample_rate: int | None = None
    loudness_lufs: float | None = None
    written: TranscriptForm = "txt"


# --- In a notebook


def synthesize(
    ds: Dataset,
    model: str | None = None,
    voice: str | None = None,
    *,
    speed: float = 1.0,
    seed: int = 0,
    form: AudioFormat = "wav",
    lexicon: Mapping[str, str] = MappingProxyType({}),
    word_times: bool = False,
    verify: bool = False,
    sample_rate: int | None = None,
    loudness_lufs: float | None = None,
    app: AppConfig | None = None,
    hardware: str | None = None,
    workers: int | None = None,
) -> Dataset:
    """A dataset with a column `text`, and perhaps `voice` and `input_type` (text or ssml), to one with the sound beside them:
    `audio` (bytes in `form`), `seconds`, `sample_rate`, `sha256`, `timings`, `finish_reason`, `words` with
    `word_times`, `quality`, and `error` where a row failed. Lazy, like every one. With `verify`, a recognition model hears
    every piece, and one with other words is made again.

    `text` and `voice` become what was spoken, and by whom; rows that failed keep what they came with. Raises `MotetError`
    (invalid) without `text` and for other columns named like a result's, here or, where the columns are not known yet, when
    the dataset is computed.
    """
    options = BulkOptions(
        voice,
        speed,
        seed,
        form,
        word_times=word_times,
        lexicon=lexicon,
        verify=verify,
        sample_rate=sample_rate,
        loudness_lufs=loudness_lufs,
    )
    return _rendered(ds, "speech", model, options, app, hardware, workers)


def transcribe(
    ds: Dataset,
    model: str | None = None,
    *,
    language: str | None = None,
    prompt: str | None = None,
    word_times: bool = False,
    app: AppConfig | None = None,
    hardware: str | None = None,
    workers: int | None = None,
) -> Dataset:
    """A dataset with a column `audio` (bytes), or `path` on the workers' machine, to one with what is said beside it:
    `text`, `language`, `timings`, `seconds`, and `error` where a row failed. The sound itself is left out: `audio` is null.

    Raises `MotetError` (invalid) without either and for other columns named like a result's, as `synthesize` does.
    """
    options = BulkOptions(language=language, prompt=prompt, word_times=word_times)
    return _rendered(ds, "transcription", model, options, app, hardware, workers)


def separate(
    ds: Dataset,
    model: str | None = None,
    *,
    stems: tuple[str, ...] = (),
    form: AudioFormat = "wav",
    chunk_seconds: float | None = None,
    overlap_seconds: float | None = None,
    app: AppConfig | None = None,
    hardware: str | None = None,
    workers: int | None = None,
) -> Dataset:
    """A dataset with a column `audio` (bytes), or `path` on the workers' machine, to one with a row for each `stem` and its
    sound in `audio`, or one row with an `error` and without `audio`.

    Raises `MotetError` (invalid) without either and for other columns named like a result's, as `synthesize` does.
    """
    options = BulkOptions(form=form, stems=stems, chunk_seconds=chunk_seconds, overlap_seconds=overlap_seconds)
    return _rendered(ds, "separation", model, options, app, hardware, workers)


def _rendered(
    ds: Dataset,
    task: Task,
    model: str | None,
    options: BulkOptions,
    app: AppConfig | None,
    hardware: str | None,
    workers: int | None,
) -> Dataset:
    check_columns(ds.columns(fetch_if_missing=False) or (), task)
    job, where = job_of(app or AppConfig(), task, model, options, hardware)
    pool = ActorPoolStrategy(size=workers or places_for(where))
    return map_with_workers(ds, TableWorker, job, where, batch_size=job.bulk.batch_rows, compute=pool)


# --- A whole job


def run(
    inputs: Sequence[Path],
    task: Task,
    output: Path,
    layout: Layout,
    options: BulkOptions,
    app: AppConfig,
    *,
    model: str | None = None,
    hardware: str | None = None,
    workers: int | None = None,
    split: Split = "line",
    service: ServiceClient | None = None,
    progress: Callable[[JobProgress], None],
) -> JobSummary:
    """Carries a job out on a cluster (`RAY_ADDRESS`, or one of its own on this machine), or through a live service.

    Raises `MotetError` for what no row could be made with.
    """
    refuse_inputs_in_output(inputs, output, layout, task)
    job, where = job_of(app, task, model, options, hardware, "engines" if service is None else "service")

    def execute(batches: Sequence[Batch]) -> Iterator[RenderedBatch]:
        if service is not None:
            yield from render_on_service(batches, job, service)
            return
        with cluster_for(job):
            yield from render_on_cluster(batches, job, where, workers or places_for(where))

    return run_job(read_rows(inputs, task, split), job, output, layout, execute, progress)


def job_of(
    app: AppConfig, task: Task, model: str | None, options: BulkOptions, hardware: str | None, way: Way = "engines"
) -> tuple[BulkJob, HardwareClass]:
    """The job, and the hardware class it runs on: the model's first one unless named. Raises `MotetError` (not_found)."""
    name, found = find_model(app.models, model, task)
    placement = _placement(name, found, hardware)
    # There are as many workers as cores.
    one = {"threads": placement.hardware.fixed_threads}
    settings = replica_settings(name, found, placement).model_copy(update=one)
    order = _order(task, found, options, app)
    job = BulkJob(model=settings, order=order, bulk=app.bulk, way=way, version=version("motet"))
    return job, placement.hardware


def _placement(name: str, model: Model, hardware: str | None) -> Placement:
    for placement in model.placements:
        if hardware in (None, placement.hardware.kind):
            return placement
    there = ", ".join(placement.hardware.kind for placement in model.placements)
    raise fail("not_found", f"The model {name!r} has no placement on {hardware!r}.", f"It has: {there}.")


def _order(task: Task, model: Model, options: BulkOptions, app: AppConfig) -> BulkOrder:
    if task == "speech":
        return BulkSpeechOrder(
            voice=options.voice,
            voice_aliases=model.voice_aliases,
            speed=options.speed,
            seed=options.seed,
            form=options.form,
            word_times=options.word_times,
            sample_rate=options.sample_rate,
            loudness_lufs=app.speech.loudness_lufs if options.loudness_lufs is None else options.loudness_lufs,
            pieces=app.speech.pieces,
            lexicon=app.speech.lexicon,
            job_lexicon=options.lexicon,
            normalize=app.speech.normalize.changed(options.normalize),
            quality=app.speech.quality,
            verifier=_verifier(app) if options.verify else None,
        )
    if task == "transcription":
        return BulkTranscriptionOrder(
            language=options.language,
            prompt=options.prompt,
            word_times=options.word_times or options.written in WITH_WORDS,
            windows=app.windows,
            written=options.written,
            subtitles=app.subtitles,
        )
    given = {"chunk_s": options.chunk_seconds, "overlap_s": options.overlap_seconds}
    asked = {name: value for name, value in given.items() if value is not None}
    cut = type(app.separation).model_validate(app.separation.model_dump() | asked)
    return BulkSeparationOrder(stems=options.stems, form=options.form, separation=cut)


def _verifier(app: AppConfig) -> ReplicaSettings:
    """The recognition model that hears every piece, beside the voice in each worker. Raises `MotetError` (not_found)."""
    name, model = find_model(app.models, app.speech.verify_model, "transcription")
    placement = model.placements[0]
    one = {"threads": placement.hardware.fixed_threads}
    return replica_settings(name, model, placement).model_copy(update=one)


def places_for(hardware: HardwareClass) -> int:
    """The number of workers that fit the cluster's cores, GPUs or shares of Macs; at least one."""
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    options = hardware.actor_options()
    wanted = {"CPU": float(hardware.fixed_threads), "GPU": options.get("num_gpus", 0.0), **options.get("resources", {})}
    rooms = [int(there.get(name, 0.0) / amount) for name, amount in wanted.items() if amount > 0]
    return max(1, min(rooms, default=1))


@contextmanager
def cluster_for(job: BulkJob) -> Iterator[None]:
    """Connects to the cluster at `RAY_ADDRESS`, or starts one that ends with this process."""
    if ray.is_initialized():
        yield
        return
    # Without an address Ray would join whatever cluster was started last on this machine.
    address = os.environ.get("RAY_ADDRESS") or cluster_address.OWN_CLUSTER
    own: dict[str, Any] = {"object_store_memory": job.bulk.object_store_bytes, "include_dashboard": False}
    settings = own if address == cluster_address.OWN_CLUSTER else {}
    cluster_address.connect(address, **settings)
    try:
        yield
    finally:
        ray.shutdown()
