"""The page, and whether the service lives and is ready."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import psutil
from fastapi import APIRouter, Request
from starlette.responses import FileResponse, JSONResponse, Response

from deployments.errors import MotetError
from deployments.replica.base import ReplicaReport
from serve_app.gateway.routing.directory import ModelDirectory
from serve_app.gateway.routing.placement import NoReplica
from serve_app.gateway.service import service_of

router = APIRouter()

INDEX = Path(__file__).parents[2] / "page" / "index.html"
READY_TIMEOUT_S = 5.0
LOOK_S = 0.25


class ReadinessLook:
    """Asks every model how it is, once for everybody who asks within `LOOK_S`: anybody may ask, as often as they like."""

    def __init__(self, directory: ModelDirectory) -> None:
        self._directory = directory
        self._look: asyncio.Task[list[dict[str, Any]]] | None = None
        self._began_s = 0.0

    async def reports(self) -> list[dict[str, Any]]:
        """A report for each model, in the order of the directory's models."""
        now_s = asyncio.get_running_loop().time()
        if self._look is None or now_s - self._began_s >= LOOK_S:
            self._look, self._began_s = asyncio.create_task(self._ask()), now_s
        return await asyncio.shield(self._look)

    async def _ask(self) -> list[dict[str, Any]]:
        return await asyncio.gather(*(_report(self._directory, name) for name in self._directory.models))


_LOOKS: WeakKeyDictionary[ModelDirectory, ReadinessLook] = WeakKeyDictionary()


def _looks_of(directory: ModelDirectory) -> ReadinessLook:
    return _LOOKS.setdefault(directory, ReadinessLook(directory))


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """The web page."""
    return FileResponse(INDEX, media_type="text/html")


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The gateway answers."""
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """Every model answers, on one of its placements at least, or has no replica until somebody asks. A replica takes no
    calls before its warm-up is over. The queues and the tasks, each of which is a stream or a part of one, are those of the
    gateway replica that answers."""
    directory = service_of(request).directory
    reports = await _looks_of(directory).reports()
    ready = all(report["ready"] for report in reports)
    body = {
        "status": "ready" if ready else "not ready",
        "models": dict(zip(directory.models, reports, strict=True)),
        "gateway": {"tasks": len(asyncio.all_tasks()), "memory_bytes": psutil.Process().memory_info().rss},
        "queues": {name: asdict(queue) for name, queue in service_of(request).admission.snapshot().items()},
    }
    return JSONResponse(body, 200 if ready else 503)


async def _report(directory: ModelDirectory, name: str) -> dict[str, Any]:
    """The first ready placement's report, and which placements are ready."""
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            reports = await directory.reports(name)
    except Exception as error:
        return {"ready": False, "cause": _trouble(error)}
    troubles = {kind: _trouble(report) for kind, report in reports.items()}
    placements = {kind: trouble is None for kind, trouble in troubles.items()}
    for kind, report in reports.items():
        if placements[kind]:
            return {"ready": True, "placements": placements, **_facts(report)}
    if asleep := directory.asleep(name):
        return {"ready": True, "placements": placements, "asleep": asleep}
    return {"ready": False, "placements": placements, "cause": "; ".join(map(str, troubles.values()))}


def _trouble(report: ReplicaReport | Exception) -> str | None:
    """Why a placement takes no work: it gave no report, or it has no room. What an exception of Ray's says is not for
    clients."""
    if isinstance(report, ReplicaReport):
        return report.refusal
    if isinstance(report, MotetError):
        return report.failure.message
    return str(report) if isinstance(report, NoReplica) else f"It does not answer ({type(report).__name__})."


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
        "recorded_steps": report.recorded and asdict(report.recorded),
    }
