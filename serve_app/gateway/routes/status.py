"""GET /v1/status: what the service does at the moment, for the Studio, for terminals and for scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Literal, NotRequired

from fastapi import APIRouter, Request
from typing_extensions import TypedDict

from deployments.replica.base import ReplicaReport
from deployments.settings import documented
from serve_app.gateway.description.operation import Operation, json_answer
from serve_app.gateway.placement_reports import ModelReports, refusal_of
from serve_app.gateway.request_context import current_key
from serve_app.gateway.routing.placement_queue import QueueReport
from serve_app.gateway.service import Service, service_of

router = APIRouter()

MOST_STREAMS = 100

PlacementState = Literal["ready", "asleep", "away"]


class QueueFacts(TypedDict):
    """The queue of a placement in this gateway replica. Seconds are of audio, except those of `wait_s`."""

    open: int
    queued_seconds: float
    speed: float
    wait_s: float
    refused: int


class StepFacts(TypedDict):
    """The steps of a replica since it started, the items in them, its largest batch, and the seconds they took."""

    steps: int
    items: int
    largest: int
    seconds: float


@documented
class PlacementFacts(TypedDict):
    """A model on a class of hardware, and what one of its replicas reports."""

    name: str
    model: str
    task: str
    hardware: str
    max_batch_size: int
    """The most items in a step."""
    state: PlacementState
    """`asleep`: it starts a replica on demand. `away`: it takes no work."""
    cause: NotRequired[str]
    """Why it takes no work."""
    device: NotRequired[str]
    memory_bytes: NotRequired[int]
    open_streams: NotRequired[int]
    steps: NotRequired[StepFacts]
    queue: NotRequired[QueueFacts]
    """Missing before the first request."""


@documented
class StreamFacts(TypedDict):
    """A speech that is made now."""

    model: str
    placement: str
    made_seconds: float
    """Audio that was made so far."""
    buffered_seconds: float
    """Audio that a client which plays it as it is made has not played yet; negative for how long it waits for more."""


@documented
class FirstResultFacts(TypedDict):
    """How long a client waited for the first sound, or for the first text of a transcription."""

    at: float
    """When the request ended, in Unix seconds."""
    model: str
    placement: str | None
    milliseconds: float


@documented
class ServiceStatus(TypedDict):
    """What the service does at the moment. Queues, streams and first results are of the gateway replica that answers."""

    object: Literal["status"]
    status: Literal["ready", "not ready", "draining"]
    placements: list[PlacementFacts]
    streams: list[StreamFacts]
    """Speech that is made now; of many streams some."""
    first_results: list[FirstResultFacts]
    """The latest, the oldest first."""
    first_sound_alarm_ms: float
    """First sound later than this is late."""


STATUS = Operation(id="get_status", tag="Models", answers=(json_answer(ServiceStatus, "The status."),))


@router.get("/v1/status", openapi_extra=STATUS.extra, response_model=None)
async def status(request: Request) -> ServiceStatus:
    """What the service does at the moment: its placements, queues and open streams, and how long clients waited for the first
    result. Only models that the key may use are listed."""
    service, key = service_of(request), current_key()
    reports = await service.reports.all(service.directory)
    own = {name: report for name, report in reports.items() if key.may_use(name)}
    placements = [facts for name, report in own.items() for facts in _placements(service, name, report)]
    working = {facts["model"] for facts in placements if facts["state"] != "away"}
    return {
        "object": "status",
        "status": "draining" if service.drain.begun else "ready" if working == set(own) else "not ready",
        "placements": placements,
        "streams": list(islice(_streams(service, own), MOST_STREAMS)),
        "first_results": [
            {"at": r.at, "model": r.model, "placement": r.placement, "milliseconds": r.milliseconds}
            for r in service.recent.first_results()
            if r.model in own
        ],
        "first_sound_alarm_ms": service.settings.speech.first_sound_alarm_ms,
    }


def _placements(service: Service, name: str, reports: ModelReports | Exception) -> Iterator[PlacementFacts]:
    directory, queues = service.directory, service.admission.snapshot()
    entry, asleep = directory.models[name], directory.asleep(name)
    for kind in entry.kinds:
        report = reports if isinstance(reports, Exception) else reports[kind]
        refusal = refusal_of(report)
        facts: PlacementFacts = {
            "name": f"{name}@{kind}",
            "model": name,
            "task": entry.task,
            "hardware": kind,
            "max_batch_size": entry.max_batch_size,
            "state": "ready" if refusal is None else "asleep" if kind in asleep else "away",
        }
        if facts["state"] == "away" and refusal:
            facts["cause"] = refusal
        if isinstance(report, ReplicaReport):
            _add_report(facts, report)
        if queue := queues.get(facts["name"]):
            facts["queue"] = _queue(queue)
        yield facts


def _add_report(facts: PlacementFacts, report: ReplicaReport) -> None:
    facts["device"], facts["memory_bytes"] = report.device, report.memory_bytes
    facts["open_streams"] = report.open_streams
    steps = report.steps
    facts["steps"] = {
        "steps": steps.steps,
        "items": steps.items,
        "largest": steps.largest,
        "seconds": round(steps.seconds, 3),
    }


def _queue(report: QueueReport) -> QueueFacts:
    return {
        "open": report.open,
        "queued_seconds": round(report.queued_seconds, 3),
        "speed": round(report.speed, 3),
        "wait_s": round(report.wait_s, 3),
        "refused": report.refused,
    }


def _streams(service: Service, own: Mapping[str, object]) -> Iterator[StreamFacts]:
    now_s = service.admission.clock()
    for ticket in service.admission.open_tickets():
        model = ticket.placement.rpartition("@")[0]
        if model in own and service.directory.models[model].task == "speech":
            yield {
                "model": model,
                "placement": ticket.placement,
                "made_seconds": round(ticket.made_seconds, 3),
                "buffered_seconds": round(ticket.buffered_seconds(now_s), 3),
            }
