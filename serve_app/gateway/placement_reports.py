"""What the replicas of every placement report about themselves, asked for at most a few times a second."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from deployments.errors import MotetError
from deployments.replica.base import ReplicaReport
from serve_app.gateway.routing.directory import ModelDirectory
from serve_app.gateway.routing.placement import NoAnswer

ANSWER_LIMIT_S = 5.0
REPORT_AGE_S = 0.25
"""Requests within this time share one round of questions to the replicas, since anybody may send any number of them."""

ModelReports = Mapping[str, ReplicaReport | Exception]
"""By hardware class: what one replica reports, or why none does."""


class PlacementReports:
    """Asks one replica of each placement for its report, at most once in `REPORT_AGE_S`."""

    def __init__(self) -> None:
        self._round: asyncio.Task[dict[str, ModelReports | Exception]] | None = None
        self._began_s = 0.0

    async def all(self, directory: ModelDirectory) -> Mapping[str, ModelReports | Exception]:
        """The reports of each model, or why there are none, in the order of the directory."""
        now_s = asyncio.get_running_loop().time()
        if self._round is None or now_s - self._began_s >= REPORT_AGE_S:
            self._round, self._began_s = asyncio.create_task(_asked(directory)), now_s
        found = await asyncio.shield(self._round)
        return {name: reports for name, reports in found.items() if name in directory.offered}  # some left meanwhile


async def _asked(directory: ModelDirectory) -> dict[str, ModelReports | Exception]:
    names = list(directory.offered)
    answers = await asyncio.gather(*(_reports(directory, name) for name in names))
    return dict(zip(names, answers, strict=True))


async def _reports(directory: ModelDirectory, name: str) -> ModelReports | Exception:
    try:
        async with asyncio.timeout(ANSWER_LIMIT_S):
            return await directory.reports(name)
    except Exception as error:
        return error


def refusal_of(report: ReplicaReport | Exception) -> str | None:
    """Why a placement takes no work; None if it does. The text of Ray's exceptions is not for clients."""
    if isinstance(report, ReplicaReport):
        return report.refusal
    if isinstance(report, MotetError):
        return report.failure.message
    return str(report) if isinstance(report, NoAnswer) else f"It does not answer ({type(report).__name__})."
