"""What every replica with a model does the same way: load on the engine thread, warm up, report, and say when it is stuck."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from deployments.engine_thread import EngineThread
from deployments.engines import registry, sources
from deployments.engines.base import EngineSpec
from deployments.errors import MotetError
from deployments.settings import StepSettings, StrictModel

HEAVY_LIBRARIES = ("torch", "mlx")


class ReplicaSettings(StrictModel):
    """One model on one hardware class."""

    model: str
    engine: str
    source: str | None
    device: str
    threads: int
    sha256: Mapping[str, str]
    options: Mapping[str, Any]
    steps: StepSettings
    stuck_after_seconds: float


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """How a replica came up and what it takes. Memory is resident, in bytes."""

    model: str
    device: str
    load_seconds: float
    warm_up_seconds: float
    memory_bytes: int
    heavy_libraries: tuple[str, ...]


class ModelReplica:
    """Base of the deployments that hold an engine."""

    thread: EngineThread
    _settings: ReplicaSettings
    _load_seconds: float
    _warm_up_seconds: float

    async def load(self, settings: ReplicaSettings) -> Any:
        """Loads the engine on the thread that will run it."""
        self._settings = settings
        self.thread = EngineThread(settings.model)
        started = time.perf_counter()
        try:
            engine = await self.thread.run(load_engine, settings)
        except MotetError as error:
            raise RuntimeError(f"Model {settings.model!r} cannot be loaded. {error}") from error
        self._load_seconds = time.perf_counter() - started
        return engine

    async def warm_up(self, answer: Callable[[], Awaitable[None]]) -> None:
        """Answers one request before the replica counts as ready."""
        started = time.perf_counter()
        await answer()
        self._warm_up_seconds = time.perf_counter() - started

    async def report(self) -> ReplicaReport:
        """How this replica came up and what it takes."""
        return ReplicaReport(
            model=self._settings.model,
            device=self._settings.device,
            load_seconds=self._load_seconds,
            warm_up_seconds=self._warm_up_seconds,
            memory_bytes=psutil.Process().memory_info().rss,
            heavy_libraries=tuple(name for name in HEAVY_LIBRARIES if name in sys.modules),
        )

    async def check_health(self) -> None:
        """Called by Ray Serve; a replica whose step never ends is replaced."""
        self.thread.check(self._settings.stuck_after_seconds)


def load_engine(settings: ReplicaSettings) -> Any:
    """The engine that the settings name, with its weights found and checked."""
    folder = str(sources.folder_of(sources.parse(settings.source), settings.sha256)) if settings.source else ""
    spec = EngineSpec(settings.model, folder, settings.device, settings.threads, settings.options)
    return registry.load(settings.engine, spec)
