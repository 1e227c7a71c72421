"""Jobs, files and batches as values, and the JSON that clients see of them."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

JobStatus = Literal["queued", "running", "completed", "failed"]
BatchStatus = Literal["validating", "in_progress", "cancelling", "completed", "failed", "cancelled"]

BATCH_TIMES = ("in_progress_at", "completed_at", "failed_at", "cancelling_at", "cancelled_at")

ID_BYTES = 16
"""Of chance in an id: who does not know it does not guess it."""


def new_id(kind: str) -> str:
    """An id such as `job_0123...`; files have a hyphen, as OpenAI's do."""
    return f"{kind}{'-' if kind == 'file' else '_'}{secrets.token_hex(ID_BYTES)}"


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who sends a request: the digest of an API key, or in a service without keys a network.

    With keys, `exclusive` is set: nobody else sees what a key made. Without, whoever knows an id may use it.
    """

    name: str
    exclusive: bool

    def may_see(self, owner: str) -> bool:
        """Whether a thing of this owner is visible."""
        return not self.exclusive or self.name == owner


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes in the store, by the SHA-256 of their content in hexadecimal."""

    digest: str
    path: str
    bytes: int


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A request that runs later. `fields` are the text fields of a form, and `files` names of fields with the digests of
    their contents. A JSON body is a field without a name, or if it is long a file without a name."""

    endpoint: str
    fields: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, str], ...]

    @property
    def fingerprint(self) -> str:
        """Equal for equal requests, in whatever order their fields were sent. The values of one field keep their order."""
        by_name = sorted(self.fields, key=lambda field: field[0])
        return hashlib.sha256(json.dumps([self.endpoint, by_name, self.files]).encode()).hexdigest()

    @property
    def text(self) -> str:
        """All of it as JSON."""
        return json.dumps([self.endpoint, self.fields, self.files])

    @property
    def json_body(self) -> str | None:
        """A JSON body that is not in a file."""
        return dict(self.fields).get("")

    @classmethod
    def of(cls, text: str) -> JobRequest:
        """The request of its `text`."""
        endpoint, fields, files = json.loads(text)
        return cls(endpoint, tuple((n, v) for n, v in fields), tuple((n, v) for n, v in files))


@dataclass(frozen=True, slots=True)
class JobAnswer:
    """What the endpoint answered: a status, and either a stored body or the `error` of OpenAI's format."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: Blob | None = None
    error: Mapping[str, Any] | None = None

    @property
    def media_type(self) -> str:
        """The content type."""
        return dict(self.headers).get("content-type", "application/octet-stream")


@dataclass(frozen=True, slots=True)
class Job:
    """A job. Times are Unix seconds; `seconds_done` and `seconds_expected` are of audio. `seconds_charged` of audio were
    taken from the quota of its API key, in all attempts.

    `batch` and `line` say which request of a batch it is, if it is one.
    """

    id: str
    owner: str
    request: JobRequest
    status: JobStatus
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    attempts: int = 0
    seconds_done: float = 0.0
    seconds_expected: float | None = None
    answer: JobAnswer | None = None
    batch: str | None = None
    line: int | None = None
    seconds_charged: float = 0.0

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.status in ("completed", "failed")

    def as_json(self, keep_s: float) -> dict[str, Any]:
        """The job as its client sees it."""
        answer, expires = self.answer, None if self.finished_at is None else int(self.finished_at + keep_s)
        result = None
        if answer and answer.body:
            url = f"/v1/jobs/{self.id}/result"
            result = {"url": url, "media_type": answer.media_type, "bytes": answer.body.bytes}
        return {
            "id": self.id,
            "object": "job",
            "endpoint": self.request.endpoint,
            "status": self.status,
            "created_at": int(self.created_at),
            "started_at": _whole(self.started_at),
            "finished_at": _whole(self.finished_at),
            "expires_at": expires,
            "attempts": self.attempts,
            "seconds_done": round(self.seconds_done, 3),
            "seconds_expected": None if self.seconds_expected is None else round(self.seconds_expected, 3),
            "batch_id": self.batch,
            "result": result,
            "error": answer.error if answer else None,
        }


@dataclass(frozen=True, slots=True)
class JobEvent:
    """What happened to a job. `number` counts the events of the job; `job` is its JSON at that time."""

    number: int
    type: str
    job: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a client, or of a batch."""

    id: str
    owner: str
    blob: Blob
    name: str
    purpose: str
    created_at: float
    expires_at: float
    media_type: str = "application/octet-stream"

    def as_json(self) -> dict[str, Any]:
        """The file in OpenAI's format."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.blob.bytes,
            "created_at": int(self.created_at),
            "expires_at": int(self.expires_at),
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


@dataclass(frozen=True, slots=True)
class JobBatch:
    """A batch of requests to one endpoint, each of which is a job until the batch ends. Times are Unix seconds; `times` has
    those of OpenAI's format by name. `input_digest` is the content of its input; `files` has the ids of its output and its
    errors; `mistakes` are those of its input."""

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    input_digest: str
    status: BatchStatus
    created_at: float
    metadata: Mapping[str, str] | None = None
    times: Mapping[str, float] = field(default_factory=dict)
    total: int = 0
    completed: int = 0
    failed: int = 0
    files: Mapping[str, str] = field(default_factory=dict)
    mistakes: tuple[Mapping[str, Any], ...] = ()

    @property
    def open(self) -> bool:
        """Whether something is still to be done."""
        return self.status in ("validating", "in_progress", "cancelling")

    def as_json(self, max_wait_s: float) -> dict[str, Any]:
        """The batch in OpenAI's format."""
        errors = {"object": "list", "data": list(self.mistakes)} if self.mistakes else None
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": errors,
            "input_file_id": self.input_file_id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.files.get("output"),
            "error_file_id": self.files.get("error"),
            "created_at": int(self.created_at),
            "expires_at": int(self.created_at + max_wait_s),
            **{name: _whole(self.times.get(name)) for name in BATCH_TIMES},
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "metadata": self.metadata,
        }


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
