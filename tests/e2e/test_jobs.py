"""Jobs survive the loss of the gateway and of the service, and OpenAI's client has files and batches."""

from __future__ import annotations

import io
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from openai import OpenAI

from deployments.audio.decode import decode_all
from tests.e2e.conftest import PANGRAM, Float, Service, config_of, wait_for

STEPS = {"step_ms": 20, "character_ms": 60}
"""A sentence of the text below is about three seconds of sound, which takes half a second to make."""
TEXT = " ".join(f"This is the sentence with the number {number} of a text." for number in range(40))
SPEECH = {"model": "tone", "input": TEXT, "response_format": "wav", "seed": 1}
WITHIN_S = 120.0


class Lasting:
    """A service that is started again with the same folder of jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        settings = {
            "models": {
                "tone": {"engine": "simulated", "options": STEPS},
                "identity": {"engine": "identity"},
            },
            "jobs": {"folder": str(folder / "jobs"), "lease_s": 3.0},
            "voices": {"folder": str(folder / "voices")},
        }
        self.config = config_of(folder, settings)
        self.service = Service.start(self.config, folder)

    def start_again(self) -> None:
        """Kills every process of the service, and starts it."""
        self.service.kill()
        self.service = Service.start(self.config, self.folder)

    def request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        return httpx.request(method, self.service.url + path, timeout=120, **arguments)

    def make(self, body: dict[str, Any], key: str | None = None) -> str:
        headers = {"idempotency-key": key} if key else {}
        answer = self.request("POST", "/v1/jobs", json={"endpoint": "/v1/audio/speech", "body": body}, headers=headers)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, id: str) -> dict[str, Any]:
        answer = self.request("GET", f"/v1/jobs/{id}")
        assert answer.is_success, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def wait(self, id: str, reached: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """The job, once it is as wanted. The service may be away meanwhile."""

        def found() -> dict[str, Any] | None:
            try:
                job = self.job(id)
            except (httpx.HTTPError, AssertionError):
                return None
            return job if reached(job) else None

        job = wait_for(found, WITHIN_S, what)
        assert job is not None
        return job

    def result(self, id: str) -> bytes:
        job = self.wait(id, lambda job: job["status"] in ("completed", "failed"), "the job's end")
        assert job["status"] == "completed", job
        return self.request("GET", f"/v1/jobs/{id}/result").content

    def parts(self, id: str) -> list[Path]:
        """The finished parts of a job."""
        return list((self.folder / "jobs" / "files" / "parts" / id).glob("*"))


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lasting]:
    found = Lasting(tmp_path_factory.mktemp("jobs"))
    yield found
    found.service.stop(signal.SIGINT)


@pytest.fixture(scope="module")
def direct(lasting: Lasting) -> bytes:
    """The answer of the request itself, without a length in its header: it is made while it is sent."""
    answer = lasting.request("POST", "/v1/audio/speech", json=SPEECH)
    assert answer.is_success, answer.text
    return answer.content


def test_a_job_goes_on_after_its_gateway_is_killed(lasting: Lasting, direct: bytes) -> None:
    id = lasting.make(SPEECH)
    wait_for(lambda: len(lasting.parts(id)) >= 5, WITHIN_S, "five finished pieces")
    lasting.service.replica("gateway").kill()
    kept = set(lasting.parts(id))
    assert lasting.result(id) == direct
    job = lasting.job(id)
    assert job["attempts"] == 2
    assert kept
    wait_for(lambda: not lasting.parts(id), WITHIN_S, "the parts to be removed")


def test_a_job_goes_on_after_the_service_is_killed(lasting: Lasting, direct: bytes) -> None:
    running, waiting = lasting.make(SPEECH, key="one"), lasting.make({**SPEECH, "input": "Hello there."})
    wait_for(lambda: len(lasting.parts(running)) >= 5, WITHIN_S, "five finished pieces")
    lasting.start_again()
    assert lasting.make(SPEECH, key="one") == running
    assert lasting.result(running) == direct
    assert lasting.result(waiting)
    assert lasting.job(running)["attempts"] == 2


def test_events_are_followed_while_a_job_runs(lasting: Lasting) -> None:
    id = lasting.make(SPEECH)
    types = []
    with httpx.stream("GET", f"{lasting.service.url}/v1/jobs/{id}/events", timeout=60) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                types.append(json.loads(line.removeprefix("data: "))["type"])
    assert types[0] == "job.queued"
    assert types[-1] == "job.completed"
    assert "job.progress" in types


def test_a_running_job_is_cancelled_and_deleted(lasting: Lasting) -> None:
    id = lasting.make(SPEECH)
    lasting.wait(id, lambda job: job["status"] == "running", "the job's begin")
    assert lasting.request("DELETE", f"/v1/jobs/{id}").is_success
    assert lasting.request("GET", f"/v1/jobs/{id}").status_code == 404
    began = time.monotonic()
    assert lasting.result(lasting.make({**SPEECH, "input": "Hello there."}))
    assert time.monotonic() - began < WITHIN_S


def test_a_second_service_with_the_same_folder_has_no_jobs_until_the_first_one_ends(lasting: Lasting) -> None:
    second = Service.start(lasting.config, lasting.folder)
    try:
        wait_for(lambda: "Warning: there are no jobs, files and batches" in second.said, WITHIN_S, "the warning")
        body = {"endpoint": "/v1/audio/speech", "body": {**SPEECH, "input": "Hello there."}}
        refused = httpx.post(f"{second.url}/v1/jobs", json=body, timeout=60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "jobs_folder_taken")
        assert httpx.post(f"{second.url}/v1/audio/speech", json=body["body"], timeout=60).is_success
        assert lasting.result(lasting.make({**SPEECH, "input": "Hello there."}))
        lasting.service.kill()
        wait_for(lambda: httpx.get(f"{second.url}/v1/jobs", timeout=60).is_success, WITHIN_S, "the second one's turn")
    finally:
        second.stop(signal.SIGINT)
        lasting.start_again()


def test_a_separation_is_a_job(lasting: Lasting) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (25 * 44_100, 2)).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, noise, 44_100, "FLOAT", format="WAV")
    fields = {"endpoint": "/v1/audio/separations", "model": "identity", "response_format": "flac"}
    made = lasting.request("POST", "/v1/jobs", data=fields, files={"file": ("noise.wav", file.getvalue())})
    assert made.status_code == 202, made.text
    samples = decode_all(
        lasting.result(made.json()["id"]), 44_100, False, 60.0
    )  # a FLAC that is streamed has no length
    assert samples.shape == (2, len(noise))
    np.testing.assert_allclose(samples, noise.T, atol=1e-4)


def test_a_batch_of_openais_client(client: OpenAI, pangram: Float) -> None:
    file = io.BytesIO()
    soundfile.write(file, pangram, 24_000, format="WAV")
    sound = client.files.create(file=("pangram.wav", file.getvalue()), purpose="user_data")
    bodies = {"json": {"model": "whisper-1", "file": sound.id}, "none": {"model": "none", "file": sound.id}}
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/audio/transcriptions", "body": body}
        for name, body in bodies.items()
    ]
    data = "\n".join(map(json.dumps, lines)).encode()
    batch = client.batches.create(
        input_file_id=client.files.create(file=data, purpose="batch").id,
        endpoint="/v1/audio/transcriptions",  # type: ignore[arg-type]
        completion_window="24h",
    )

    def ended() -> bool:
        return client.batches.retrieve(batch.id).status in ("completed", "failed")

    wait_for(ended, WITHIN_S, "the batch's end")
    done = client.batches.retrieve(batch.id)
    assert done.request_counts is not None
    assert done.request_counts.model_dump() == {"completed": 1, "failed": 1, "total": 2}
    assert done.output_file_id
    assert done.error_file_id
    (line,) = client.files.content(done.output_file_id).text.splitlines()
    said = json.loads(line)["response"]["body"]["text"]
    assert "quick brown fox" in said.lower(), (said, PANGRAM)
    (line,) = client.files.content(done.error_file_id).text.splitlines()
    assert json.loads(line)["response"]["body"]["error"]["code"] == "model_not_found"
