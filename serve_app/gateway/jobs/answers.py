"""What answers about jobs, files and batches are made of. `/openapi.json` describes them. Times are Unix seconds."""

from __future__ import annotations

from typing import Any, Literal

from typing_extensions import TypedDict

from deployments.settings import documented
from serve_app.gateway.jobs.records import BatchStatus, JobStatus


class JobResult(TypedDict):
    """Where the result of a job is."""

    url: str
    media_type: str
    bytes: int


@documented
class JobObject(TypedDict):
    """A job."""

    id: str
    object: Literal["job"]
    endpoint: str
    """The path of the endpoint that answers it."""
    status: JobStatus
    created_at: int
    started_at: int | None
    finished_at: int | None
    expires_at: int | None
    """When the job is deleted with its result."""
    attempts: int
    seconds_done: float
    """Seconds of the recording or of the speech, so far."""
    seconds_expected: float | None
    batch_id: str | None
    result: JobResult | None
    error: dict[str, Any] | None
    """What is wrong, in the usual shape."""


class JobList(TypedDict):
    """A page of jobs."""

    object: Literal["list"]
    data: list[JobObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class JobDeleted(TypedDict):
    """The job is deleted."""

    id: str
    object: Literal["job.deleted"]
    deleted: Literal[True]


class JobNews(TypedDict):
    """What happened to a job, and the job at that time."""

    type: Literal["job.queued", "job.running", "job.progress", "job.completed", "job.failed"]
    job: JobObject


class FileObject(TypedDict):
    """A file."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"]


class FileList(TypedDict):
    """A page of files."""

    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(TypedDict):
    """The file is deleted."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class BatchCounts(TypedDict):
    """How many requests a batch has."""

    total: int
    completed: int
    failed: int


class BatchMistakes(TypedDict):
    """What is wrong with the input file of a batch, line by line."""

    object: Literal["list"]
    data: list[dict[str, Any]]


@documented
class BatchObject(TypedDict):
    """A batch."""

    id: str
    object: Literal["batch"]
    endpoint: str
    errors: BatchMistakes | None
    input_file_id: str
    completion_window: Literal["24h"]
    status: BatchStatus
    output_file_id: str | None
    """The answers, a line each."""
    error_file_id: str | None
    """The requests that failed, a line each."""
    created_at: int
    expires_at: int
    in_progress_at: int | None
    completed_at: int | None
    failed_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: BatchCounts
    metadata: dict[str, str] | None


class BatchList(TypedDict):
    """A page of batches."""

    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
