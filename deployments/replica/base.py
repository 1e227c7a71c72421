"""What all replicas with a model share: they load it on the engine thread, warm up, report, and notice when it is stuck."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil
import ray
from ray import serve

from deployments.engines import registry, weight_sources
from deployments.engines.graph_protocol import CaptureStats
from deployments.engines.limits import Memory
from deployments.engines.protocols import EngineSpec
from deployments.errors import MotetError
from deployments.replica.call_trace import CallTrace, traced_call
from deployments.replica.cores import Threads, here, threads_of
from deployments.replica.cpu_scheduling import CpuScheduling, apply
from deployments.replica.engine_thread import EngineThread
from deployments.replica.error_log import ignore_unwritten_lines
from deployments.replica.graph_capture import MAX_CAPTURE_S, GraphCapture
from deployments.replica.load import ReplicaLoad
from deployments.replica.malloc_trim import EVERY_S, MallocTrim, keep_freed_memory
from deployments.replica.memory_pressure import MemoryGuard
from deployments.replica.metric import keep_gauges
from deployments.replica.metrics import CaptureMetrics, MemoryMetrics, StepCounts, StepMetrics
from deployments.replica.step_gate import Stepper, followed_by
from deployments.replica.step_scheduling import on_lanes
from deployments.settings import StepSettings, StrictModel
from deployments.tracing.context import TraceContext
from deployments.tracing.settings import TracingSettings
from deployments.tracing.spans import Tracer
from deployments.tracing.start import tracer_of

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger("ray.serve")

HEAVY_LIBRARIES = ("torch", "mlx")


class ReplicaSettings(StrictModel):
    """One model on one hardware class."""

    model: str
    engine: str
    source: str | None
    device: str
    threads: Threads
    reserved_cpus: float
    """CPUs of other placements on the same machine, which `auto` threads leave free."""
    scheduling: CpuScheduling
    sha256: Mapping[str, str]
    beside: tuple[weight_sources.BesideFiles, ...] = ()
    options: Mapping[str, Any]
    steps: StepSettings
    stuck_after_s: float
    tracing: TracingSettings = TracingSettings()


@dataclass(frozen=True, slots=True)
class ReplicaReport:
    """How long a replica took to start, and what it uses.

    `memory_bytes` is the resident memory of its process; `engine_memory` is what the engine's library holds, if it measures
    that. `refusal` says why no new work is taken now. `captured_steps` is for engines that capture their steps as graphs.
    """

    model: str
    device: str
    load_seconds: float
    warm_up_seconds: float
    memory_bytes: int
    heavy_libraries: tuple[str, ...]
    scheduling: str
    open_streams: int
    steps: StepCounts
    engine_memory: Memory | None = None
    refusal: str | None = None
    captured_steps: CaptureStats | None = None


class ModelReplica:
    """Base of the deployments that hold an engine."""

    tracer: Tracer | None = None

    # Ray Serve awaits a constructor that is a coroutine, which mypy does not know.
    async def __init__(self, settings: ReplicaSettings, *extra: Any) -> None:  # type: ignore[misc]
        self._settings = settings
        self.replica_id = serve.get_replica_context().replica_id.unique_id
        ignore_unwritten_lines()
        self.tracer = tracer_of(settings.tracing, f"{settings.model}@{settings.device}/{self.replica_id}")
        self.thread = EngineThread(settings.model)
        self.load = ReplicaLoad()
        self.malloc_trim = MallocTrim(keep_freed_memory())
        started = time.perf_counter()
        engine = await self._loaded()
        self.memory_guard = MemoryGuard(engine, self.thread, MemoryMetrics(settings.model))
        self.graph_capture = GraphCapture(engine, self.thread, CaptureMetrics(settings.model))
        self.prepare(engine, *extra)
        self._load_seconds = time.perf_counter() - started
        started = time.perf_counter()
        await self.answer_once()
        self._warm_up_seconds = time.perf_counter() - started
        self.load = ReplicaLoad()  # the warm-up is not part of the load
        await self.thread.run(
            self.malloc_trim.give_back
        )  # whisper reads its weights twice, hibari its dictionaries: 84 and 55 MB
        await self.memory_guard.ensure()  # a model that fills the memory by itself would refuse everything

    def prepare(self, engine: Any, *extra: Any) -> None:
        """Receives the loaded engine. `extra` are the arguments of the deployment after its settings."""
        raise NotImplementedError

    async def answer_once(self) -> None:
        """Warms up: answers one request of its own. The replica is ready after that."""
        raise NotImplementedError

    async def _loaded(self) -> Any:
        # Before the model loads, because the threads that it starts inherit the scheduling.
        self._applied = await self.thread.run(apply, self._settings.scheduling)
        for warning in self._applied.warnings:
            logger.warning("%s: %s", self.model, warning)
        try:
            return await self.thread.run(load_engine, self._settings)
        except MotetError as error:
            raise RuntimeError(f"Model {self._settings.model!r} cannot be loaded. {error}") from error

    def stepper(
        self,
        advance: Callable[[Sequence[Item]], list[Result | Exception]],
        lanes: int | None = None,
        most: int | None = None,
    ) -> Stepper[Item, Result]:
        """The gate and batch in front of one of the engine's calls, which takes items as one batch, of `most` items at most,
        or on `lanes`."""
        self._step_metrics = StepMetrics(self.model)
        self._steps = self._settings.steps
        watched = self.graph_capture.watched(self.memory_guard.watched(advance))
        self._lanes, self._most = lanes, most
        stepper = Stepper(followed_by(watched, self.malloc_trim.look), self.thread, self._fitted(), self._step_metrics)
        self._configure_steps = stepper.configure
        return stepper

    def live_stepper(
        self, advance: Callable[[Sequence[Item]], list[Result | Exception]], thread: EngineThread, most: int
    ) -> Stepper[Item, Result]:
        """The gate and batch in front of a call that runs on a thread of its own, beside the engine's. Its steps do not wait
        for others. Call `stepper` before."""
        settings = StepSettings(max_batch_size=most, batch_wait_ms=0.0)
        return Stepper(advance, thread, settings, self._step_metrics)

    def _fitted(self) -> StepSettings:
        """The step settings within what the engine gains from."""
        steps = self._steps if self._lanes is None else on_lanes(self._steps, self._lanes)
        most = min(steps.max_batch_size, self._most or steps.max_batch_size)
        return steps.model_copy(update={"max_batch_size": most})

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Called by Ray Serve at the start and when the step settings change, without a restart. Settings that `user_config`
        does not name keep the model's own values."""
        self._steps = StepSettings.model_validate(self._settings.steps.model_dump() | dict(user_config))
        self._configure_steps(self._fitted())

    def traced(self, method: str, parent: TraceContext | None) -> AbstractContextManager[CallTrace | None]:
        """The trace of a call of a method; None if it came without one."""
        return traced_call(self.tracer, method, parent, self.model)

    def open_streams(self) -> int:
        """The number of streams under way; 0 for replicas without streams."""
        return 0

    @property
    def model(self) -> str:
        """The model's name."""
        return self._settings.model

    @property
    def scheduling(self) -> CpuScheduling:
        """How the replica's threads are scheduled."""
        return self._settings.scheduling

    async def report(self) -> ReplicaReport:
        """This replica's report."""
        return ReplicaReport(
            model=self._settings.model,
            device=self._settings.device,
            load_seconds=self._load_seconds,
            warm_up_seconds=self._warm_up_seconds,
            memory_bytes=psutil.Process().memory_info().rss,
            heavy_libraries=tuple(name for name in HEAVY_LIBRARIES if name in sys.modules),
            scheduling=self._applied.policy,
            open_streams=self.open_streams(),
            steps=self._step_metrics.counts,
            engine_memory=self.memory_guard.memory,
            refusal=self.memory_guard.refusal.message if self.memory_guard.refusal else None,
            captured_steps=self.graph_capture.stats,
        )

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Ray Serve if the number of replicas follows the load."""
        return dict(self.load.stats())

    async def check_health(self) -> None:
        """Called by Ray Serve, which replaces a replica that raises here: one whose step does not end or whose memory stays
        full. An idle replica returns freed memory and captures missing graphs."""
        keep_gauges()
        stuck_after_s = self._settings.stuck_after_s
        self.thread.check(MAX_CAPTURE_S if self.graph_capture.under_way else stuck_after_s)
        await self.memory_guard.check(stuck_after_s)
        if not self.thread.busy_seconds:
            idle = self.load.idle_seconds >= EVERY_S
            self.thread.submit(self.malloc_trim.look_when_idle if idle else self.malloc_trim.look)
        self.graph_capture.capture_when_idle(self.load.idle_seconds, self._steps.capture_after_idle_s)


def load_engine(settings: ReplicaSettings) -> Any:
    """Loads the engine that the settings name. Its weights are downloaded if necessary, and checked. Raises `MotetError`."""
    folder = ""
    if settings.source:
        source = weight_sources.parse(settings.source)
        folder = str(weight_sources.folder_of(source, settings.sha256, settings.beside))
    threads = threads_of(settings.threads, lambda: here(_node_cpus()), settings.reserved_cpus)
    return registry.load(
        settings.engine, EngineSpec(settings.model, folder, settings.device, threads, settings.options)
    )


def _node_cpus() -> float | None:
    """The CPUs that the Ray node of this process offers; None outside of a cluster."""
    if not ray.is_initialized():
        return None
    own = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return next((float(node["Resources"].get("CPU", 0.0)) for node in nodes if node["NodeID"] == own), None)
