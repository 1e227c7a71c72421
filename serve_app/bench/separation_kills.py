"""`motet bench separation-kills`: a job that separates a long recording while parts of the service are killed.

The separator is killed again and again, the gateway once, and in the long form the whole service once. The result must have
the bytes of an undisturbed job, and finished chunks must not be computed again.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from deployments.errors import fail
from serve_app.bench.frame import Figure, Report, Sheet, at_least, at_most, carry_out
from serve_app.bench.http_client import form_of
from serve_app.bench.local_engines import wav_of
from serve_app.bench.running_service import RunningProgram
from serve_app.bench.serve_service import service_of
from serve_app.bench.service_processes import ServiceProcesses
from serve_app.cli.processes import kill
from serve_app.config import DEFAULT_MODELS

MODEL = "separator"
DEPLOYMENT = f"{MODEL}@cpu"
RATE = 16_000
CHUNK_S, OVERLAP_S, IN_FLIGHT = 10.0, 3.0, 4
GATEWAY_AT, SERVICE_AT = 0.3, 0.6
"""Shares of the recording that are done when the gateway and the whole service are killed."""
POLL_S = 0.2
END_S = 1800.0
CALL = "CALL separate OK"
"""Ray Serve's line in a replica's log for each chunk that was separated. It stays when the replica is killed."""

KILLS, GATEWAYS, SERVICES = "separators killed", "gateways killed", "whole services killed"
DIFFERENT = "bytes of the result that differ from the undisturbed job"
CALM = "agreement of the chunks computed by the undisturbed job with those of the recording"
AGAIN = "chunks computed more than once, of those under way at the kills"
ATTEMPTS = "attempts of the job"
LONGER = "time of the job, over the undisturbed one"


@dataclass(frozen=True, slots=True)
class KillPlan:
    """A recording of `seconds`, the model that separates it, a kill of the separator every `every_s`, and whether the whole
    service is killed."""

    seconds: float
    model: dict[str, Any]
    every_s: float
    whole_service: bool


QUICK = KillPlan(210.0, {"engine": "identity", "options": {"chunk_ms": 400}}, 5.0, whole_service=False)
FULL = KillPlan(
    1200.0, DEFAULT_MODELS["deepfilternet"].model_dump(mode="json") | {"aliases": []}, 10.0, whole_service=True
)


@dataclass(slots=True)
class KillCounts:
    """What was killed so far."""

    separators: int = 0
    gateways: int = 0
    services: int = 0

    @property
    def under_way(self) -> int:
        """The most chunks that may have been under way at all kills, with one for each resumption: a job that resumes
        computes the chunk again with which the first missing one is joined."""
        resumed = self.gateways + self.services
        return IN_FLIGHT * (self.separators + resumed) + resumed


def run(quick: bool) -> Report:
    """Measures everything; `quick` has a short recording, an engine that changes nothing, and no loss of the service."""
    plan = QUICK if quick else FULL
    return carry_out("separation-kills", figures(plan), lambda sheet: _measure(sheet, plan), quick=quick)


def figures(plan: KillPlan) -> list[Figure]:
    """What is measured."""
    return [
        Figure(KILLS, "", at_least(1)),
        Figure(GATEWAYS, "", at_least(1)),
        *((Figure(SERVICES, "", at_least(1)),) if plan.whole_service else ()),
        Figure(DIFFERENT, "bytes", at_most(0)),
        Figure(CALM, "%", at_least(100)),
        Figure(AGAIN, "%", at_most(100)),
        Figure(ATTEMPTS, ""),
        Figure(LONGER, "x"),
    ]


def chunks_of(seconds: float) -> int:
    """The chunks of a recording."""
    return max(1, int(np.ceil((seconds - OVERLAP_S) / (CHUNK_S - OVERLAP_S))))


def _measure(sheet: Sheet, plan: KillPlan) -> None:
    killed = KillCounts()
    with tempfile.TemporaryDirectory(prefix="motet-kills-") as name:
        arguments = arguments_of(plan, Path(name))
        with service_of(arguments) as program, KilledService(program) as service:
            began_s = time.monotonic()
            undisturbed = service.result(service.begin(plan.seconds, "undisturbed"))
            calm_s, calm = time.monotonic() - began_s, service.computed()
            began_s = time.monotonic()
            id = service.begin(plan.seconds, "killed")
            _disturb(service, id, plan, killed, SERVICE_AT if plan.whole_service else 1.0)
            if plan.whole_service:
                kill(service.processes.all(), END_S)
                killed.services += 1
            else:
                result, ended_s = service.result(id), time.monotonic()
            computed, attempts = service.computed() - calm, service.attempts(id)
        if plan.whole_service:
            with service_of(arguments) as program, KilledService(program) as service:
                _disturb(service, id, plan, killed, 1.0)
                result, ended_s = service.result(id), time.monotonic()
                computed, attempts = computed + service.computed(), service.attempts(id)
    put_counts(sheet, plan, killed, calm, computed)
    sheet.put(DIFFERENT, differing(undisturbed, result), f"of {len(undisturbed):,}")
    sheet.put(ATTEMPTS, attempts)
    sheet.put(LONGER, (ended_s - began_s) / calm_s, f"{calm_s:.0f} s undisturbed")


def _disturb(service: KilledService, id: str, plan: KillPlan, killed: KillCounts, until: float) -> None:
    """Kills the separator every `every_s`, and the gateway once, until the share `until` of the recording is done. One that
    has not finished a chunk yet is not killed: on a slow machine none would ever do."""
    began_s = time.monotonic()
    next_s, computed = began_s + plan.every_s, service.computed()
    while (done := service.share_done(id)) is None or done < until:
        now_s = time.monotonic()
        if now_s - began_s > END_S:
            raise fail("timeout", f"The job did not end within {END_S:.0f} s.")
        if now_s >= next_s and service.computed() > computed:
            kill(service.processes.replicas(DEPLOYMENT), END_S)
            killed.separators += 1
            next_s, computed = time.monotonic() + plan.every_s, service.computed()
        if not killed.gateways and done is not None and done >= GATEWAY_AT:
            kill(service.processes.replicas("gateway"), END_S)
            killed.gateways += 1
        time.sleep(POLL_S)


def put_counts(sheet: Sheet, plan: KillPlan, killed: KillCounts, calm: int, computed: int) -> None:
    """Fills in the kills, and the chunks that both jobs computed: `calm` ones undisturbed, and `computed` ones."""
    sheet.put(KILLS, killed.separators, f"one every {plan.every_s:g} s, or when it has finished a chunk")
    sheet.put(GATEWAYS, killed.gateways)
    if plan.whole_service:
        sheet.put(SERVICES, killed.services)
    chunks = chunks_of(plan.seconds)
    # Both ways: if the log's lines were not found, nothing would count as computed again.
    sheet.put(CALM, 100 * min(calm, chunks) / max(calm, chunks), f"{calm} of {chunks}")
    again = f"{computed} computed, {chunks} in the recording, at most {killed.under_way} under way at the kills"
    share = 100 * max(0, computed - chunks) / killed.under_way if killed.under_way else float("nan")
    sheet.put(AGAIN, share, again)


def differing(left: bytes, right: bytes) -> int:
    """The number of bytes that differ, with those that only one of both has."""
    common = min(len(left), len(right))
    one, other = (np.frombuffer(data[:common], np.uint8) for data in (left, right))
    return int(np.count_nonzero(one != other)) + abs(len(left) - len(right))


class KilledService:
    """A running service, and the job that it has. Use it as a context."""

    def __init__(self, program: RunningProgram) -> None:
        self.processes = ServiceProcesses(program)
        self._logs = self.processes.log_folder()
        base = f"http://{program.host}:{program.port}"
        self._http = httpx.Client(base_url=base, timeout=60, trust_env=False)

    def __enter__(self) -> KilledService:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def begin(self, seconds: float, key: str) -> str:
        """Makes a job; returns its id. The recording is the same for each key."""
        fields = {"endpoint": "/v1/audio/separations", "model": MODEL, "response_format": "wav"}
        body, content_type = form_of(recording(seconds), fields)
        headers = {"content-type": content_type, "idempotency-key": key}
        answer = self._http.post("/v1/jobs", content=body, headers=headers)
        if answer.status_code != 202:
            raise fail("engine", f"The job was not accepted: {answer.text[:300]}")
        return str(answer.json()["id"])

    def share_done(self, id: str) -> float | None:
        """How much of the job is done, from 0 to 1; None while the service does not answer. Raises `MotetError` if the job
        failed."""
        job = self._job(id)
        if job is None:
            return None
        if job["status"] == "failed":
            raise fail("engine", f"The job failed: {job['error']}")
        if job["status"] == "completed":
            return 1.0
        return min(0.999, (job["seconds_done"] or 0.0) / (job["seconds_expected"] or math.inf))

    def attempts(self, id: str) -> int:
        """How often the job was begun; 0 if the service does not answer."""
        job = self._job(id)
        return int(job["attempts"]) if job else 0

    def result(self, id: str) -> bytes:
        """The result of the job, once it is done. Raises `MotetError`."""
        deadline = time.monotonic() + END_S
        while self.share_done(id) != 1.0:
            if time.monotonic() > deadline:
                raise fail("timeout", f"The job did not end within {END_S:.0f} s.")
            time.sleep(POLL_S)
        return self._http.get(f"/v1/jobs/{id}/result").content

    def computed(self) -> int:
        """The chunks that all separators of this service have finished, also those that were killed."""
        logs = self._logs.glob(f"serve/replica_motet_{DEPLOYMENT}_*.log")
        return sum(line.find(CALL) >= 0 for log in logs for line in log.read_text(errors="replace").splitlines())

    def _job(self, id: str) -> dict[str, Any] | None:
        try:
            answer = self._http.get(f"/v1/jobs/{id}")
        except httpx.HTTPError:
            return None
        facts: dict[str, Any] | None = answer.json() if answer.is_success else None
        return facts


def recording(seconds: float) -> bytes:
    """Noise that rises and falls, as a WAV file: every chunk of it is another one."""
    count = int(seconds * RATE)
    noise = np.random.default_rng(0).normal(0.0, 0.1, count)
    return wav_of((noise * np.sin(np.arange(count) * np.pi / (3 * RATE)) ** 2).astype(np.float32), RATE)


def arguments_of(plan: KillPlan, folder: Path) -> dict[str, Any]:
    """The configuration of the service, with its jobs in `folder`."""
    return {
        "models": {MODEL: plan.model | {"placements": [{"hardware": {"kind": "cpu", "cpus": 0.1}}]}},
        "separation": {"chunk_s": CHUNK_S, "overlap_s": OVERLAP_S, "chunks_in_flight": IN_FLIGHT},
        "jobs": {"folder": str(folder / "jobs"), "lease_s": 3.0, "attempts": 10},
    }
