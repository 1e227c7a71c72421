"""Settings of jobs, each with its default, bounds and meaning. `serve_app/config.py` composes them."""

from __future__ import annotations

from pydantic import model_validator

from deployments.settings import Count, Positive, StrictModel

GIB = 1024**3
DAY_S = 24 * 3600.0


class JobSettings(StrictModel):
    """Jobs, uploaded files and batches: `/v1/jobs`, `/v1/files` and `/v1/batches`."""

    folder: str = "~/.local/share/motet/jobs"
    """Where the queue is, and without `store` all files. It must be on a local disk of the machine of the gateways, since its
    database (SQLite) needs locks that network file systems do not have."""
    store: str | None = None
    """Where uploads, results and finished parts are, as a URL of fsspec such as `s3://bucket/motet`. The package of its
    protocol, such as s3fs or gcsfs, must be installed. Without it they are in `folder`."""
    running_at_once: Count = 1
    """Jobs that run at the same time, of all gateways and clients. It must be less than `recordings.max_sessions`."""
    max_jobs: Count = 100_000
    """Jobs of all clients, with the lines of batches, and finished jobs until they are deleted."""
    max_jobs_per_client: Count = 60_000
    """Jobs of one client: one API key, or in a service without keys one address."""
    max_files: Count = 100_000
    """Files of all clients, with those that batches made."""
    max_files_per_client: Count = 60_000
    """Files of one client."""
    max_batches: Count = 10_000
    """Batches of all clients that have not ended. As many that ended without a result are listed; clients with the most lose
    their oldest first."""
    max_batches_per_client: Count = 1_000
    """Batches of one client that have not ended. As many that ended without a result are listed, the newest."""
    max_bytes: Count = 100 * GIB
    """The most bytes of uploads, results and finished parts together. A job or file that does not fit is refused."""
    max_upload_bytes: Count = GIB
    """The longest body of a job, and the largest file."""
    max_input_characters: Count = 1_000_000
    """The longest `input` of a speech that is a job."""
    max_batch_lines: Count = 50_000
    """Requests of one batch."""
    max_line_bytes: Count = 1024 * 1024
    """The longest line of a batch."""
    keep_s: Positive = 7 * DAY_S
    """How long a finished job and its result are kept."""
    keep_files_s: Positive = 30 * DAY_S
    """How long a file is kept, unless its upload asks for less (`expires_after`)."""
    max_wait_s: Positive = DAY_S
    """A job that still waits in the queue this long after it was made has failed."""
    max_run_s: Positive = DAY_S
    """A job that runs for longer has failed."""
    attempts: Count = 3
    """How often a job is begun that fails in the service, or whose gateway is lost."""
    lease_s: Positive = 15.0
    """A job whose gateway has not been heard of for this long is taken up again."""

    @model_validator(mode="after")
    def _shares(self) -> JobSettings:
        if self.max_line_bytes > self.max_upload_bytes:
            raise ValueError("max_line_bytes must be at most max_upload_bytes")
        return self
