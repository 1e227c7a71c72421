"""The web page, liveness and readiness."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NotRequired

import psutil
from fastapi import APIRouter, Request
from starlette.responses import FileResponse, JSONResponse, Response
from typing_extensions import TypedDict

from deployments.replica.base import ReplicaReport
from deployments.settings import documented
from serve_app.gateway.description.operation import Operation, json_answer
from serve_app.gateway.placement_reports import ModelReports, refusal_of
from serve_app.gateway.routing.directory import ModelDirectory
from serve_app.gateway.service import service_of

router = APIRouter()

INDEX = Path(__file__).parents[2] / "page" / "index.html"


class Liveness(TypedDict):
    """The gateway runs."""

    status: Literal["alive"]


@documented
class ModelReadiness(TypedDict):
    """Whether a model takes work, and the facts of a replica that does."""

    ready: bool
    cause: NotRequired[str]
    """Why it takes no work."""
    placements: NotRequired[dict[str, bool]]
    """Whether each placement takes work."""
    asleep: NotRequired[list[str]]
    """Placements that start a replica on demand."""
    device: NotRequired[str]
    load_seconds: NotRequired[float]
    warm_up_seconds: NotRequired[float]
    memory_bytes: NotRequired[int]
    engine_memory: NotRequired[dict[str, Any] | None]
    heavy_libraries: NotRequired[list[str]]
    scheduling: NotRequired[str]
    open_streams: NotRequired[int]
    steps: NotRequired[dict[str, Any]]
    captured_steps: NotRequired[dict[str, Any] | None]


class GatewayFacts(TypedDict):
    """The gateway replica that answers."""

    tasks: int
    memory_bytes: int


@documented
class Readiness(TypedDict):
    """Whether every model takes work, and the service is not stopping."""

    status: Literal["ready", "not ready", "draining"]
    models: dict[str, ModelReadiness]
    gateway: GatewayFacts
    queues: dict[str, dict[str, Any]]
    """The queue of each placement that was requested so far."""


LIVEZ = Operation(id="get_liveness", tag="Health", answers=(json_answer(Liveness, "The gateway runs."),))
READYZ = Operation(
    id="get_readiness",
    tag="Health",
    answers=(
        json_answer(Readiness, "Every model takes work."),
        json_answer(Readiness, "A model takes no work, or the service is not ready.", status=503),
    ),
)


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def page() -> Response:
    """The web page."""
    return FileResponse(INDEX, media_type="text/html")


@router.get("/livez", openapi_extra=LIVEZ.extra, response_model=None)
async def livez() -> Liveness:
    """Answers as long as the gateway runs."""
    return {"status": "alive"}


@router.get("/readyz", openapi_extra=READYZ.extra)
async def readyz(request: Request) -> Response:
    """Status 200 if every model answers on at least one placement or starts a replica on demand, and the service is not
    stopping. Replicas answer only after their warm-up. The queues and asyncio tasks are those of the gateway replica that
    answers."""
    service = service_of(request)
    directory = service.directory
    answers = await service.reports.all(directory)
    reports = {name: _report(directory, name, answer) for name, answer in answers.items()}
    ready = all(report["ready"] for report in reports.values()) and not service.drain.begun
    body = {
        "status": "draining" if service.drain.begun else "ready" if ready else "not ready",
        "models": reports,
        "gateway": {"tasks": len(asyncio.all_tasks()), "memory_bytes": psutil.Process().memory_info().rss},
        "queues": {name: asdict(queue) for name, queue in service.admission.snapshot().items()},
    }
    return JSONResponse(body, 200 if ready else 503)


def _report(directory: ModelDirectory, name: str, reports: ModelReports | Exception) -> dict[str, Any]:
    """The report of the first ready placement, and which placements are ready."""
    if isinstance(reports, Exception):
        return {"ready": False, "cause": refusal_of(reports)}
    refusals = {kind: refusal_of(report) for kind, report in reports.items()}
    placements = {kind: refusal is None for kind, refusal in refusals.items()}
    for kind, report in reports.items():
        if isinstance(report, ReplicaReport) and placements[kind]:
            return {"ready": True, "placements": placements, **_facts(report)}
    if asleep := directory.asleep(name):
        return {"ready": True, "placements": placements, "asleep": asleep}
    return {"ready": False, "placements": placements, "cause": "; ".join(map(str, refusals.values()))}


def _facts(report: ReplicaReport) -> dict[str, Any]:
    return {
        "device": report.device,
        "load_seconds": round(report.load_seconds, 3),
        "warm_up_seconds": round(report.warm_up_seconds, 3),
        "memory_bytes": report.memory_bytes,
        "engine_memory": report.engine_memory and asdict(report.engine_memory),
        "heavy_libraries": list(report.heavy_libraries),
        "scheduling": report.scheduling,
        "open_streams": report.open_streams,
        "steps": asdict(report.steps),
        "captured_steps": report.captured_steps and asdict(report.captured_steps),
    }
