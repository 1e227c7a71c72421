"""A folder of jobs belongs to one service while that runs, however many gateways it has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deployments.errors import MotetError
from serve_app.gateway.jobs import folder_claim, job_table
from serve_app.gateway.jobs.database import JobDatabase
from serve_app.gateway.jobs.folder_claim import LOCK_FILE, FolderClaim
from serve_app.gateway.jobs.records import Job, JobAnswer, JobRequest
from serve_app.gateway.jobs.settings import JobSettings

SETTINGS = JobSettings()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_claim, "PAUSE_S", 0.0)


def test_gateways_of_one_service_share_the_folder_and_another_service_does_not_get_it(tmp_path: Path) -> None:
    gateways = [FolderClaim(tmp_path, "one") for _ in range(2)]
    for gateway in gateways:
        with pytest.raises(MotetError, match="belongs to another service") as refused:
            FolderClaim(tmp_path, "two")
        assert refused.value.failure.code == "jobs_folder_taken"
        assert "jobs.folder" in refused.value.failure.remedy
        assert "service one, process" in str(refused.value.failure.detail)
        assert str(tmp_path) not in refused.value.failure.message  # a client is told no path of the server
        gateway.close()
    FolderClaim(tmp_path, "two").close()


def test_a_damaged_file_belongs_to_nobody(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_bytes(b'{"service": "one"')
    FolderClaim(tmp_path, "two").close()
    (tmp_path / LOCK_FILE).write_bytes(b"[1]")
    FolderClaim(tmp_path, "three").close()


def test_a_service_that_was_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from serve_app.gateway.jobs.folder_claim import FolderClaim\n"
        "claim = FolderClaim(pathlib.Path(sys.argv[1]), 'one'); print('has it', flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"has it\n"
        with pytest.raises(MotetError, match="belongs to another service"):
            FolderClaim(tmp_path, "two")
        running.kill()
        running.wait()
    FolderClaim(tmp_path, "two").close()


def test_the_second_service_begins_no_job_of_the_first(tmp_path: Path) -> None:
    first, second = JobDatabase(tmp_path, "one"), JobDatabase(tmp_path, "two")
    job = Job("job_1", "me", JobRequest("/v1/audio/speech", (("", "{}"),), ()), "queued", 0.0)
    first.run_here(job_table.add_once, job, SETTINGS, [], None)
    for _ in range(2):  # each look
        with pytest.raises(MotetError) as refused:
            second.run_here(job_table.claim, "worker", SETTINGS, 1.0)
        assert refused.value.failure.code == "jobs_folder_taken"
    begun = first.run_here(job_table.claim, "worker", SETTINGS, 1.0)
    assert begun is not None and begun.id == job.id


def test_of_two_runners_of_one_service_one_gets_a_job_and_only_that_one_ends_it(tmp_path: Path) -> None:
    gateways = [JobDatabase(tmp_path, "one") for _ in range(2)]
    job = Job("job_1", "me", JobRequest("/v1/audio/speech", (("", "{}"),), ()), "queued", 0.0)
    gateways[0].run_here(job_table.add_once, job, SETTINGS, [], None)
    taken = [gateway.run_here(job_table.claim, f"worker-{n}", SETTINGS, 1.0) for n, gateway in enumerate(gateways)]
    assert [found is not None for found in taken] == [True, False]
    answer = JobAnswer(400, error={"message": "No."})
    ended = [
        gateways[n].run_here(job_table.end, job.id, f"worker-{n}", answer, SETTINGS, 2.0) for n in reversed(range(2))
    ]
    assert ended == [False, True]
