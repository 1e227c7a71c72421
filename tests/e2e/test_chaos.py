"""Replicas and a gateway are killed under load: every request is answered with one more attempt, and no job is lost.

How long requests wait is measured by `motet bench chaos`.
"""

from __future__ import annotations

import asyncio

from serve_app.bench import chaos
from serve_app.bench.chaos import ChaosService
from serve_app.bench.frame import Sheet

KILLS = ("kill-speech", "kill-transcription", "kill-gateway")


def test_kills_lose_nothing_where_there_are_spare_replicas() -> None:
    service = ChaosService(1, KILLS)
    sheet = Sheet(chaos.figures(service), lambda _: None)
    with chaos.chaos_service(service.spare) as target:
        asyncio.run(chaos.disturb(sheet, service, target))
    notes = "\n".join(f"{figure.name}: {figure.note}" for figure in sheet.figures)
    assert sheet.value(service.figure(chaos.REQUESTS)) > 0
    assert sheet.value(service.figure(chaos.ANSWERED)) >= chaos.ANSWERED_PERCENT, notes
    assert sheet.value(service.figure(chaos.WEDGED)) == 0, notes
    assert sheet.value(service.figure(chaos.LOST)) == 0, notes
    assert sheet.value(service.figure(chaos.TWICE)) == 0, notes
