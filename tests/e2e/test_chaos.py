"""A replica and a gateway are killed under load: the service recovers, and no job is lost or made twice.

How many requests are answered and how long they wait depends on the machine: `motet bench chaos` measures both.
"""

from __future__ import annotations

import asyncio

import pytest

from serve_app.bench import chaos
from serve_app.bench.chaos import ChaosService
from serve_app.bench.frame import Sheet

pytestmark = pytest.mark.alone

KILLS = ("kill-speech", "kill-gateway")


def test_a_service_recovers_from_kills_and_loses_no_job() -> None:
    service = ChaosService(1, KILLS)
    sheet = Sheet(chaos.figures(service), lambda _: None)
    with chaos.chaos_service(service.spare) as target:
        asyncio.run(chaos.disturb(sheet, service, target))
    notes = "\n".join(f"{figure.name}: {figure.note}" for figure in sheet.figures)
    assert sheet.value(service.figure(chaos.REQUESTS)) > 0
    assert sheet.value(service.figure(chaos.ANSWERED)) > 0, notes
    assert sheet.value(service.figure(chaos.WEDGED)) == 0, notes
    assert sheet.value(service.figure(chaos.LOST)) == 0, notes
    assert sheet.value(service.figure(chaos.TWICE)) == 0, notes
