"""What must not happen when a part of the queue of jobs fails, and what makes two requests of jobs the same."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deployments.errors import MotetError, fail
from serve_app.gateway.jobs import batch_table
from serve_app.gateway.jobs.batch_runner import BatchRunner
from serve_app.gateway.jobs.database import JobDatabase
from serve_app.gateway.jobs.endpoints import ensure_whole
from serve_app.gateway.jobs.records import JobBatch, JobRequest
from serve_app.gateway.jobs.settings import JobSettings


def request(*fields: tuple[str, str]) -> JobRequest:
    return JobRequest("/v1/audio/transcriptions", fields, (("file", "digest"),))


def test_a_request_keeps_the_order_of_its_fields() -> None:
    sent = request(("names[]", "zoe"), ("model", "m"), ("names[]", "adam"))
    assert JobRequest.of(sent.text) == sent


def test_requests_are_equal_whatever_the_order_of_their_fields_but_not_of_the_values_of_one() -> None:
    sent = request(("names[]", "zoe"), ("names[]", "adam"), ("model", "m"))
    assert sent.fingerprint == request(("model", "m"), ("names[]", "zoe"), ("names[]", "adam")).fingerprint
    assert sent.fingerprint != request(("names[]", "adam"), ("names[]", "zoe"), ("model", "m")).fingerprint


@pytest.mark.parametrize("value", ["true", "T", "y", "Yes", "on", "1"])
def test_a_job_does_not_stream(value: str) -> None:
    with pytest.raises(MotetError, match="asks for events"):
        ensure_whole({"stream": value})


class Database:
    """A queue with some open batches."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = ids

    async def run(self, work: object, *arguments: object) -> list[Any]:
        assert work is batch_table.open_ones
        return [SimpleNamespace(id=id) for id in self.ids]


class Batches(BatchRunner):
    """Batches of which those named "full" cannot go on."""

    def __init__(self, *ids: str) -> None:
        super().__init__(JobSettings(), cast("Any", Database(ids)), cast("Any", None))
        self.advanced: list[str] = []

    async def _advance(self, batch: JobBatch) -> bool:
        if batch.id.startswith("full"):
            raise fail("storage_full", "The store of jobs is full.")
        self.advanced.append(batch.id)
        return True


async def test_a_batch_that_cannot_go_on_keeps_no_other_back(caplog: pytest.LogCaptureFixture) -> None:
    batches = Batches("full-1", "good-1", "full-2", "good-2")
    assert await batches.advance()
    assert await batches.advance()
    assert batches.advanced == ["good-1", "good-2"] * 2
    assert len([record for record in caplog.records if "waits" in record.message]) == 2


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be read", b"SQLite format 3\x00" + bytes(200)]
)
async def test_a_queue_that_is_damaged_is_unavailable(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "jobs.sqlite").write_bytes(content)
    with pytest.raises(MotetError) as caught:
        await JobDatabase(tmp_path).run(batch_table.open_ones)
    assert caught.value.failure.code == "jobs_unavailable"
