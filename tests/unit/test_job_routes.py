"""/v1/jobs, /v1/files and /v1/batches over HTTP, with stand-ins for replicas: a job answers as its endpoint does."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx
import httpx2
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI

from deployments.engines.protocols import Transcript
from deployments.errors import fail
from deployments.replica.wire import PackedChunk
from deployments.tasks.transcription import TranscriptWindow
from serve_app.gateway.jobs.context import JOB
from serve_app.gateway.jobs.finished_parts import FinishedParts
from serve_app.gateway.jobs.records import Viewer
from serve_app.gateway.jobs.runner import JobRunner
from serve_app.gateway.routing.admission import Ticket
from tests.unit.fakes import ToneSynthesizer
from tests.unit.test_api import Bench, Ear, events_of, ids_of

TRANSCRIPTIONS, SPEECH = "/v1/audio/transcriptions", "/v1/audio/speech"
KEYS = ("first-key", "second-key")
SECURITY = {"api_key_sha256": [hashlib.sha256(key.encode()).hexdigest() for key in KEYS]}
HELLO = {"model": "tone", "input": "Hello there.", "response_format": "pcm"}


class Clock:
    """Unix seconds that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1e9

    def __call__(self) -> float:
        return self.now_s


class JobBench(Bench):
    """A service with jobs, which run when a test says so."""

    def __init__(self, folder: Path, jobs: dict[str, Any] | None = None, **settings: Any) -> None:
        super().__init__(jobs={"folder": str(folder), **(jobs or {})}, **settings)
        app: Any = self.api
        while not isinstance(app, FastAPI):
            app = app._app
        self.runner: JobRunner = app.state.job_runner

    async def run(self) -> None:
        """Runs what can begin now, to its end."""
        await self.runner.look()
        await self.runner.idle()

    def use(self, clock: Clock) -> None:
        """All parts have the same time."""
        jobs = self.runner._jobs
        jobs.clock = jobs.blobs._clock = clock

    async def post(self, body: dict[str, Any], endpoint: str = SPEECH, **headers: str) -> httpx.Response:
        return await self.client.post("/v1/jobs", json={"endpoint": endpoint, "body": body}, headers=headers)

    async def post_form(self, data: bytes = b"RIFF", /, **fields: Any) -> httpx.Response:
        return await self.client.post(
            "/v1/jobs", data={"endpoint": TRANSCRIPTIONS, "model": "ear", **fields}, files={"file": ("a.wav", data)}
        )

    async def job(self, answer: httpx.Response, **headers: str) -> dict[str, Any]:
        found = await self.client.get(f"/v1/jobs/{answer.json()['id']}", headers=headers)
        job: dict[str, Any] = found.json()
        return job


@pytest.fixture
def bench(tmp_path: Path) -> JobBench:
    return JobBench(tmp_path)


async def test_a_speech_job_has_the_bytes_of_the_request(bench: JobBench) -> None:
    made = await bench.post(HELLO)
    assert made.status_code == 202
    assert made.headers["location"] == f"/v1/jobs/{made.json()['id']}"
    assert made.json()["status"] == "queued"
    result = f"/v1/jobs/{made.json()['id']}/result"
    early = await bench.client.get(result)
    assert (early.status_code, early.json()["error"]["code"]) == (409, "job_not_ended")
    await bench.run()
    job, direct = await bench.job(made), await bench.speak(response_format="pcm")
    assert (job["status"], job["attempts"], job["error"]) == ("completed", 1, None)
    assert job["result"] == {"url": result, "media_type": direct.headers["content-type"], "bytes": len(direct.content)}
    whole = await bench.client.get(result)
    assert whole.content == direct.content
    for header in ("content-type", "x-sample-rate", "x-motet-model", "x-motet-voice"):
        assert whole.headers[header] == direct.headers[header]


async def test_a_transcription_job_takes_the_endpoints_form(bench: JobBench) -> None:
    made = await bench.post_form(response_format="srt", **{"timestamp_granularities[]": "segment"})
    await bench.run()
    job = await bench.job(made)
    assert (job["status"], job["seconds_expected"] is None) == ("completed", True)
    direct = await bench.client.post(
        TRANSCRIPTIONS, data={"model": "ear", "response_format": "srt"}, files={"file": ("a.wav", b"RIFF")}
    )
    assert (await bench.client.get(job["result"]["url"])).text == direct.text


async def test_a_job_takes_an_uploaded_file_by_its_id(bench: JobBench) -> None:
    uploaded = await bench.client.post("/v1/files", data={"purpose": "user_data"}, files={"file": ("a.wav", b"RIFF")})
    id = uploaded.json()["id"]
    made = await bench.post({"model": "ear", "file": id, "timestamp_granularities": ["segment"]}, TRANSCRIPTIONS)
    assert (await bench.client.delete(f"/v1/files/{id}")).json() == {"id": id, "object": "file", "deleted": True}
    await bench.run()
    result = await bench.client.get((await bench.job(made))["result"]["url"])
    assert result.json()["text"] == "hello hello hello"


@pytest.mark.parametrize(
    ("endpoint", "body", "status", "code"),
    [
        ("/v1/models", {}, 400, "unknown_endpoint"),
        (SPEECH, {"input": "Hello."}, 400, "missing"),
        (SPEECH, {**HELLO, "model": "none"}, 404, "model_not_found"),
        (SPEECH, {**HELLO, "stream_format": "sse"}, 400, "job_streams"),
        (TRANSCRIPTIONS, {"model": "ear", "file": "file-" + "0" * 32, "stream": True}, 400, "job_streams"),
        (TRANSCRIPTIONS, {"model": "ear", "file": "file-" + "0" * 32}, 404, "file_not_found"),
        (TRANSCRIPTIONS, {"model": "ear", "file": "/etc/passwd"}, 400, None),
        (TRANSCRIPTIONS, {"model": "ear"}, 400, "missing"),
    ],
)
async def test_a_wrong_job_is_refused_at_once(
    bench: JobBench, endpoint: str, body: dict[str, Any], status: int, code: str | None
) -> None:
    answer = await bench.post(body, endpoint)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert (await bench.client.get("/v1/jobs")).json()["data"] == []


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"endpoint": "/v1/audio/speech"}', b'{"a": ' * 9, b"\xff"])
async def test_what_is_no_job_is_refused(bench: JobBench, data: bytes) -> None:
    answer = await bench.client.post("/v1/jobs", content=data, headers={"content-type": "application/json"})
    assert answer.status_code == 400


async def test_a_request_that_its_endpoint_refuses_is_a_failed_job(bench: JobBench) -> None:
    made = await bench.post({**HELLO, "speed": 99})
    await bench.run()
    job, direct = await bench.job(made), await bench.speak(speed=99)
    assert (job["status"], job["attempts"], job["error"]) == ("failed", 1, direct.json()["error"])
    result = await bench.client.get(f"/v1/jobs/{job['id']}/result")
    assert (result.status_code, result.json()) == (direct.status_code, direct.json())


async def test_a_key_makes_one_job(bench: JobBench) -> None:
    key = {"idempotency-key": "one"}
    first, again = await bench.post(HELLO, **key), await bench.post(HELLO, **key)
    assert first.json()["id"] == again.json()["id"]
    assert (again.status_code, again.headers["idempotent-replayed"]) == (202, "true")
    other = await bench.post({**HELLO, "input": "Other."}, **key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    assert (await bench.post(HELLO, **{"idempotency-key": "k" * 256})).status_code == 400


async def test_a_key_makes_one_job_of_two_requests_at_once(bench: JobBench) -> None:
    both = await asyncio.gather(*(bench.post(HELLO, **{"idempotency-key": "one"}) for _ in range(2)))
    assert len({answer.json()["id"] for answer in both}) == 1
    assert len((await bench.client.get("/v1/jobs")).json()["data"]) == 1


async def test_what_a_refused_job_uploaded_is_removed(bench: JobBench, tmp_path: Path) -> None:
    assert (await bench.post_form(b"RIFF" * 1000, model="none")).status_code == 404
    await bench.run()
    assert [file for file in (tmp_path / "files").rglob("*") if file.is_file()] == []


async def test_a_form_is_the_same_request_with_another_boundary(bench: JobBench) -> None:
    ids = set()
    for boundary in ("one", "two"):
        answer = await bench.client.post(
            "/v1/jobs",
            content=(
                f'--{boundary}\r\ncontent-disposition: form-data; name="endpoint"\r\n\r\n{TRANSCRIPTIONS}\r\n'
                f'--{boundary}\r\ncontent-disposition: form-data; name="model"\r\n\r\near\r\n'
                f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF\r\n'
                f"--{boundary}--\r\n"
            ).encode(),
            headers={"content-type": f"multipart/form-data; boundary={boundary}", "idempotency-key": "one"},
        )
        ids.add(answer.json()["id"])
    assert len(ids) == 1


async def test_events_can_be_followed_and_resumed(bench: JobBench) -> None:
    made = await bench.post(HELLO)
    await bench.run()
    url = f"/v1/jobs/{made.json()['id']}/events"
    answer = await bench.client.get(url)
    assert [each["type"] for each in events_of(answer.text)] == ["job.queued", "job.running", "job.completed"]
    assert ids_of(answer.text) == ["1", "2", "3"]
    assert events_of(answer.text)[-1]["job"] == await bench.job(made)
    rest = await bench.client.get(url, headers={"last-event-id": "2"})
    assert [each["type"] for each in events_of(rest.text)] == ["job.completed"]
    assert (await bench.client.get(url, headers={"last-event-id": "x"})).status_code == 400


async def test_a_deleted_job_is_gone_with_its_result(bench: JobBench, tmp_path: Path) -> None:
    made = await bench.post(HELLO)
    await bench.run()
    url = f"/v1/jobs/{made.json()['id']}"
    assert (await bench.client.delete(url)).json() == {
        "id": made.json()["id"],
        "object": "job.deleted",
        "deleted": True,
    }
    for method, path in (("GET", ""), ("GET", "/result"), ("GET", "/events"), ("DELETE", "")):
        assert (await bench.client.request(method, url + path)).status_code == 404
    await bench.runner._jobs.blobs.remove_unlinked()
    assert [file for file in (tmp_path / "files").rglob("*") if file.is_file()] == []
    assert list((tmp_path / "incoming").iterdir()) == []


class WaitingEar(Ear):
    """An ear that waits until it is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.cancelled = asyncio.Event(), False

    async def run(
        self, upload: AsyncIterator[bytes], task: object, _: object, ticket: Ticket, __: str
    ) -> AsyncIterator[TranscriptWindow]:
        try:
            self.began.set()
            await asyncio.Event().wait()
            yield TranscriptWindow(Transcript((), ""), 0.0)
        finally:
            self.cancelled = True
            ticket.close()


async def test_a_running_job_that_is_deleted_ends(tmp_path: Path) -> None:
    ear = WaitingEar()
    bench = JobBench(tmp_path, {"lease_s": 0.05}, ear=ear)
    made = await bench.post_form()
    await bench.runner.look()
    await ear.began.wait()
    await bench.client.delete(f"/v1/jobs/{made.json()['id']}")
    await bench.runner.idle()
    assert ear.cancelled
    assert bench.admission.snapshot() == {}


async def test_a_gateway_that_ends_gives_its_jobs_back(tmp_path: Path) -> None:
    ear = WaitingEar()
    bench = JobBench(tmp_path, ear=ear)
    made = await bench.post_form()
    running = asyncio.create_task(bench.runner.run())
    await ear.began.wait()
    running.cancel()
    await asyncio.wait({running})
    job = await bench.job(made)
    assert (job["status"], job["attempts"]) == ("queued", 0)
    other = JobBench(tmp_path)
    await other.run()
    assert (await other.job(made))["status"] == "completed"


async def test_a_gateway_that_drains_gives_its_jobs_back_and_ends_event_streams(tmp_path: Path) -> None:
    ear = WaitingEar()
    bench = JobBench(tmp_path, ear=ear)
    made = await bench.post_form()
    running = asyncio.create_task(bench.runner.run())
    following = asyncio.create_task(bench.client.get(f"/v1/jobs/{made.json()['id']}/events"))
    await ear.began.wait()
    assert bench.service.drain.begin() >= 1
    answer = await following
    assert events_of(answer.text)[0]["type"] == "job.queued"
    async with asyncio.timeout(10):
        while bench.service.drain.begin():  # noqa: ASYNC110  (a drain sets no event)
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})
    job = await bench.runner._jobs.get(Viewer("this machine", exclusive=False), made.json()["id"])
    assert (job.status, job.attempts) == ("queued", 0)


class FailingEar(Ear):
    """An ear that fails a number of times, and notes whether it worked for a job."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)
        self.for_jobs: list[bool] = []

    async def run(
        self, upload: AsyncIterator[bytes], task: Any, directory: object, ticket: Ticket, name: str
    ) -> AsyncIterator[TranscriptWindow]:
        self.for_jobs.append(JOB.get() is not None and ticket.of_job)
        if self.errors:
            ticket.close()
            raise self.errors.pop(0)
        async for window in super().run(upload, task, directory, ticket, name):
            yield window


async def test_a_failure_of_the_service_is_tried_again_and_a_full_queue_waits(tmp_path: Path) -> None:
    busy = fail("overloaded", "Busy.", code="model_busy", retry_after_s=30.0)
    ear = FailingEar(RuntimeError("broken"), busy)
    bench, clock = JobBench(tmp_path, ear=ear), Clock()
    bench.use(clock)
    made = await bench.post_form()
    for seconds, attempts in ((0.0, 1), (2.0, 1), (31.0, 2)):
        clock.now_s += seconds
        await bench.run()
        assert (await bench.job(made))["attempts"] == attempts
    assert (await bench.job(made))["status"] == "completed"
    assert ear.for_jobs == [True, True, True]


async def test_a_job_that_always_fails_ends_with_the_error(tmp_path: Path) -> None:
    bench, clock = JobBench(tmp_path, ear=FailingEar(*[RuntimeError("broken")] * 9)), Clock()
    bench.use(clock)
    made = await bench.post_form()
    for _ in range(5):
        clock.now_s += 100.0
        await bench.run()
    job = await bench.job(made)
    assert (job["status"], job["attempts"], job["error"]["code"]) == ("failed", 3, "internal_error")


class BreakingSynthesizer(ToneSynthesizer):
    """A synthesizer that breaks once, when its first sound is kept."""

    breaks = keeps = True

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.kept = asyncio.Event()

    async def speak(self, request: Any) -> AsyncIterator[PackedChunk]:
        self.asked += request.pieces
        async for chunk in super().speak(request):
            yield chunk
            if self.breaks:
                await self.kept.wait()
                self.breaks = False
                raise fail("engine", "The engine broke.")


async def test_an_answer_that_breaks_off_is_made_again_without_its_finished_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthesizer = BreakingSynthesizer()
    keep = FinishedParts.keep

    async def kept(parts: FinishedParts, address: str, data: bytes) -> None:
        await keep(parts, address, data)
        synthesizer.kept.set()

    monkeypatch.setattr(FinishedParts, "keep", kept)
    bench, clock = JobBench(tmp_path, synthesizer=synthesizer), Clock()
    bench.use(clock)
    text = "Hello there. How are you today? I am well."
    made = await bench.post({**HELLO, "input": text})
    await bench.run()
    assert (await bench.job(made))["status"] == "queued"
    clock.now_s += 100.0
    await bench.run()
    job = await bench.job(made)
    assert (job["status"], job["attempts"]) == ("completed", 1)  # one that made a part is not counted
    direct = await Bench().speak(input=text, response_format="pcm")
    assert (await bench.client.get(job["result"]["url"])).content == direct.content
    first, rest = "Hello there.", "How are you today? I am well."
    assert synthesizer.asked == [first, rest, rest]


async def test_a_job_that_is_tried_again_is_charged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of a piece that was kept, and of one that is made anew."""
    synthesizer = BreakingSynthesizer()
    keep = FinishedParts.keep

    async def kept(parts: FinishedParts, address: str, data: bytes) -> None:
        if synthesizer.keeps:
            await keep(parts, address, data)
        synthesizer.kept.set()

    monkeypatch.setattr(FinishedParts, "keep", kept)
    secured = {"keys": {"alice": {"sha256": SECURITY["api_key_sha256"][:1], "seconds_of_audio_per_minute": 1e-6}}}
    bench, clock = JobBench(tmp_path, synthesizer=synthesizer, security=secured), Clock()
    bench.use(clock)
    [alice] = bench.service.keys.named()
    headers = {"authorization": f"Bearer {KEYS[0]}"}
    charged = []
    for breaks, keeps in ((False, True), (True, True), (True, False)):
        synthesizer.breaks, synthesizer.keeps = breaks, keeps
        alice.audio.change(None)  # it is used up after each job
        alice.audio.change(1e-6)
        made = await bench.post({**HELLO, "input": "Hello there. How are you today? I am well."}, **headers)
        for _ in range(2):
            alice.ensure_audio = lambda: None  # type: ignore[method-assign]  # the second attempt does not wait
            await bench.run()
            clock.now_s += 100.0
        job = await bench.job(made, **headers)
        assert (job["status"], job["attempts"]) == ("completed", 1 if keeps else 2)
        assert alice.audio.left is not None
        charged.append(-alice.audio.left)
    assert charged[0] > 0.1
    assert charged[1:] == pytest.approx([charged[0]] * 2, abs=0.001)


async def test_a_key_sees_its_own_jobs_and_files_only(tmp_path: Path) -> None:
    bench = JobBench(tmp_path, security=SECURITY)
    mine, yours = ({"authorization": f"Bearer {key}"} for key in KEYS)
    made = await bench.post(HELLO, **mine)
    file = await bench.client.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", b"{}")}, headers=mine
    )
    await bench.run()
    assert (await bench.job(made, **mine))["status"] == "completed"
    for path in (f"/v1/jobs/{made.json()['id']}", f"/v1/files/{file.json()['id']}"):
        for end in ("", "/events", "/result") if "jobs" in path else ("", "/content"):
            assert (await bench.client.get(path + end, headers=yours)).status_code == 404
            assert (await bench.client.get(path + end)).status_code == 401
        assert (await bench.client.delete(path, headers=yours)).status_code == 404
    for path in ("/v1/jobs", "/v1/files", "/v1/batches"):
        assert (await bench.client.get(path, headers=yours)).json()["data"] == []
    stolen = await bench.post({"model": "ear", "file": file.json()["id"]}, TRANSCRIPTIONS, **yours)
    assert stolen.status_code == 404


async def test_lists_have_pages(bench: JobBench) -> None:
    made = [(await bench.post(HELLO)).json()["id"] for _ in range(3)]
    first = (await bench.client.get("/v1/jobs?limit=2&order=asc")).json()
    rest = (await bench.client.get(f"/v1/jobs?limit=2&order=asc&after={first['last_id']}")).json()
    assert [job["id"] for job in (*first["data"], *rest["data"])] == made
    assert (first["has_more"], rest["has_more"]) == (True, False)


async def test_a_longer_text_may_be_a_job(tmp_path: Path) -> None:
    bench = JobBench(tmp_path, {"max_input_characters": 100}, speech={"max_input_characters": 20})
    direct = await bench.speak(input="Hello there. How are you today?")
    assert direct.status_code == 413
    fits, too_long = [await bench.post({**HELLO, "input": "Hello there. " * count}) for count in (3, 9)]
    await bench.run()
    await bench.run()
    assert (await bench.job(fits))["status"] == "completed"
    assert (await bench.job(too_long))["error"]["code"] == "string_above_max_length"


# The rest is OpenAI's own client.


def openai_of(bench: JobBench) -> AsyncOpenAI:
    transport = httpx2.ASGITransport(bench.api)
    return AsyncOpenAI(base_url="http://motet/v1", api_key="none", http_client=httpx2.AsyncClient(transport=transport))


def as_lines(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def line(custom_id: str, body: dict[str, Any], url: str = SPEECH) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


async def test_files_as_openais_client_has_them(bench: JobBench) -> None:
    client = openai_of(bench)
    data = bytes(range(256)) * 5000
    file = await client.files.create(file=("ä b.bin", data), purpose="user_data")
    assert (file.bytes, file.filename, file.purpose, file.status) == (len(data), "ä b.bin", "user_data", "processed")
    assert await client.files.retrieve(file.id) == file
    assert (await client.files.content(file.id)).content == data
    short = await client.files.create(
        file=b"{}", purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert short.expires_at == short.created_at + 3600
    assert [each.id async for each in client.files.list(limit=1)] == [short.id, file.id]
    assert [each.id async for each in client.files.list(purpose="user_data")] == [file.id]
    assert (await client.files.delete(file.id)).deleted
    assert [each.id async for each in client.files.list()] == [short.id]


async def finished(bench: JobBench, id: str) -> Any:
    """The batch, once it has ended. Each look does a step of it."""
    for _ in range(20):
        await bench.run()
        batch = await openai_of(bench).batches.retrieve(id)
        if batch.status not in ("validating", "in_progress", "cancelling"):
            return batch
    raise AssertionError(batch)


async def texts_of(client: AsyncOpenAI, id: str) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (await client.files.content(id)).text.splitlines()]


async def test_a_batch_of_speech_as_openais_client_has_it(bench: JobBench) -> None:
    client = openai_of(bench)
    lines = [
        line("one", HELLO),
        line("two", {**HELLO, "speed": 99}),
        line("three", {**HELLO, "response_format": "wav"}),
    ]
    file = await client.files.create(file=as_lines(*lines), purpose="batch")
    batch = await client.batches.create(
        input_file_id=file.id,
        endpoint=cast("Any", SPEECH),
        completion_window="24h",
        metadata={"name": "test"},
    )
    assert (batch.status, batch.metadata) == ("validating", {"name": "test"})
    done = await finished(bench, batch.id)
    assert (done.status, done.request_counts.model_dump()) == ("completed", {"completed": 2, "failed": 1, "total": 3})
    output, errors = await texts_of(client, done.output_file_id), await texts_of(client, done.error_file_id)
    assert [each["custom_id"] for each in output] == ["one", "three"]
    sound = output[0]["response"]["body"]
    assert (output[0]["response"]["status_code"], sound["object"], sound["filename"]) == (200, "file", "one.pcm")
    assert (await client.files.content(sound["id"])).content == (await bench.speak(response_format="pcm")).content
    assert [each["custom_id"] for each in errors] == ["two"]
    assert errors[0]["response"]["status_code"] == 400
    assert errors[0]["response"]["body"]["error"]["param"] == "speed"
    assert [each.id async for each in client.batches.list()] == [batch.id]
    assert (await bench.client.get("/v1/jobs")).json()["data"] == []


async def test_a_batch_of_transcriptions(bench: JobBench) -> None:
    client = openai_of(bench)
    sound = await client.files.create(file=("a.wav", b"RIFF"), purpose="user_data")
    body = {"model": "ear", "file": sound.id}
    lines = [
        line("json", body, TRANSCRIPTIONS),
        line("srt", {**body, "response_format": "srt"}, TRANSCRIPTIONS),
    ]
    file = await client.files.create(file=as_lines(*lines), purpose="batch")
    batch = await client.batches.create(
        input_file_id=file.id, endpoint=cast("Any", TRANSCRIPTIONS), completion_window="24h"
    )
    done = await finished(bench, batch.id)
    as_json, as_text = [each["response"]["body"] for each in await texts_of(client, done.output_file_id)]
    assert as_json["text"] == "hello hello hello"
    assert as_text.startswith("1\n00:00:00")
    assert done.error_file_id is None


async def test_a_batch_with_mistakes_fails_and_names_them(bench: JobBench) -> None:
    client = openai_of(bench)
    lines = [
        line("one", HELLO),
        line("one", HELLO),
        line("two", HELLO, TRANSCRIPTIONS),
        {"custom_id": "three", "method": "GET", "url": SPEECH, "body": HELLO},
        {"method": "POST", "url": SPEECH, "body": HELLO},
    ]
    file = await client.files.create(file=as_lines(*lines) + b"\nnot json\n", purpose="batch")
    batch = await client.batches.create(input_file_id=file.id, endpoint=cast("Any", SPEECH), completion_window="24h")
    failed = await finished(bench, batch.id)
    assert failed.status == "failed"
    assert [(each.line, each.code) for each in failed.errors.data] == [
        (2, "duplicate_custom_id"),
        (3, "mismatched_url"),
        (4, "invalid_method"),
        (5, "missing_custom_id"),
        (7, "invalid_json_line"),
    ]
    assert (await bench.client.get("/v1/jobs")).json()["data"] == []


async def test_a_batch_that_is_cancelled_keeps_what_was_answered(bench: JobBench) -> None:
    client = openai_of(bench)
    file = await client.files.create(file=as_lines(line("one", HELLO), line("two", HELLO)), purpose="batch")
    batch = await client.batches.create(input_file_id=file.id, endpoint=cast("Any", SPEECH), completion_window="24h")
    await bench.run()
    await bench.run()
    assert (await client.batches.cancel(batch.id)).status == "cancelling"
    done = await finished(bench, batch.id)
    assert done.status == "cancelled"
    assert [each["custom_id"] for each in await texts_of(client, done.output_file_id)] == ["one"]
    with pytest.raises(Exception, match="cancelled already"):
        await client.batches.cancel(batch.id)


async def test_a_batch_that_is_too_long_is_refused_as_a_whole(tmp_path: Path) -> None:
    for jobs, code in (({"max_batch_lines": 1}, "too_many_lines"), ({"max_jobs": 1}, "too_many_jobs")):
        bench = JobBench(tmp_path / code, jobs)
        client = openai_of(bench)
        file = await client.files.create(file=as_lines(line("one", HELLO), line("two", HELLO)), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint=cast("Any", SPEECH), completion_window="24h"
        )
        failed = await finished(bench, batch.id)
        assert [each.code for each in failed.errors.data] == [code]


async def test_a_client_has_a_bounded_number_of_batches_at_once(tmp_path: Path) -> None:
    bench = JobBench(tmp_path, {"max_batches_per_client": 1})
    file = await openai_of(bench).files.create(file=as_lines(line("one", HELLO)), purpose="batch")
    body = {"input_file_id": file.id, "endpoint": SPEECH}
    made = await bench.client.post("/v1/batches", json=body)
    refused = await bench.client.post("/v1/batches", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_batches")
    assert "Cancel some" in refused.json()["error"]["message"]
    assert "retry-after" in refused.headers
    await finished(bench, made.json()["id"])
    assert (await bench.client.post("/v1/batches", json=body)).status_code == 200
