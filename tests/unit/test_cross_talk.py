"""2,000 requests at the same time, over several engines behind the real step scheduler: each one sounds as it does alone.

The replicas are those of the service, without Ray. One client in eight leaves after its first chunk, so that slots change hands
while others speak.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray import serve

from deployments.engines.protocols import EngineSpec, Samples, SpeechEngine, SpeechRequest
from deployments.engines.simulated.engine import SimulatedEngine
from deployments.replica import base
from deployments.replica.base import ModelReplica, ReplicaSettings
from deployments.replica.cpu_scheduling import CpuScheduling
from deployments.replica.synthesizer import Synthesizer
from deployments.replica.wire import PackedChunk, unpack
from deployments.settings import StepSettings
from tests.unit import (
    qwen3_tts_models,
    sopro_models,
    test_kokoro,
    test_pocket_tts,
    test_qwen3_tts,
    test_sopro,
    test_vibevoice_realtime,
    vibevoice_realtime_models,
)
from tests.unit.forced_path import ForcedPath
from tests.unit.speech_engine_properties import SpeechEngineProperties, joined, speak

REQUESTS = 2000
OF_TINY_MODEL = 24
"""Requests of each model with weights; the simulated one gets the rest."""
LEAVER = 8
ROUNDING = 0.01
"""What rounding may differ in a batch, and in 16-bit samples, as a share of the sound."""


class Plain(SpeechEngineProperties):
    """Of the simulated engine, which samples nothing."""


def simulated(_: Path) -> SimulatedEngine:
    spec = EngineSpec("simulated", "", "cpu", 1, {"step_ms": 0, "character_ms": 20})
    return SimulatedEngine(spec, sleep=lambda seconds: None)


@dataclass(frozen=True, slots=True)
class Case:
    """An engine, what makes it take the choices of a path, and the most streams of a step."""

    load: Callable[[Path], SpeechEngine[Any]]
    properties: SpeechEngineProperties
    most: int


CASES = {
    "simulated": Case(simulated, Plain(), 16),
    "kokoro": Case(lambda _: test_kokoro.tiny(1.0), test_kokoro.TestTinyKokoro(), 5),
    "sopro": Case(lambda at: test_sopro.loaded(sopro_models.write_tiny(at)), test_sopro.TestFloat32(), 8),
    "qwen3_tts": Case(
        lambda at: test_qwen3_tts.loaded(qwen3_tts_models.write_tiny(at), slots=6), test_qwen3_tts.TestFloat32(), 8
    ),
    "vibevoice_realtime": Case(
        lambda at: test_vibevoice_realtime.loaded(vibevoice_realtime_models.write_tiny(at)),
        test_vibevoice_realtime.TestFloat32(),
        7,
    ),
    "pocket_tts": Case(
        lambda at: test_pocket_tts.loaded(test_pocket_tts.write_tiny(at)), test_pocket_tts.TestPocket(), 8
    ),
}


def requests_of(name: str, engine: SpeechEngine[Any]) -> list[SpeechRequest]:
    """All with different texts and seeds."""
    others = len(CASES) - 1
    number = REQUESTS - others * OF_TINY_MODEL if name == "simulated" else OF_TINY_MODEL
    voice = engine.traits.default_voice
    return [SpeechRequest((f"Number {n}.",), voice, seed=n) for n in range(number)]


async def replica_of(
    name: str, engine: Any, most: int, patch: pytest.MonkeyPatch, deployment: type[ModelReplica] = Synthesizer
) -> Any:
    """A replica as Ray Serve makes it, with this engine."""
    bounds = SimpleNamespace(max_ongoing_requests=REQUESTS)
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id=name), _deployment_config=bounds)
    patch.setattr(serve, "get_replica_context", lambda: context)
    patch.setattr(base, "load_engine", lambda settings: engine)
    settings = ReplicaSettings(
        model=name,
        engine=name,
        source=None,
        device="cpu",
        threads=1,
        reserved_cpus=0.0,
        scheduling=CpuScheduling(),
        sha256={},
        options={},
        steps=StepSettings(max_batch_size=most),
        stuck_after_s=60.0,
    )
    replica: Any = deployment.__new__(deployment)
    await replica.__init__(settings)
    return replica


async def heard(replica: Any, request: SpeechRequest, *, leaves: bool) -> Samples:
    """What a client gets that stays, or leaves after the first chunk."""
    parts: list[Samples] = []
    stream: AsyncIterator[PackedChunk] = replica.speak(request)
    async with aclosing(stream):  # type: ignore[type-var]
        async for packed in stream:
            assert isinstance(packed, PackedChunk), packed
            parts.append(unpack(packed).samples)
            if leaves:
                break
    return np.concatenate(parts)


async def all_heard(replicas: dict[str, Any], asked: dict[str, list[SpeechRequest]]) -> dict[str, list[Samples]]:
    """All requests of all replicas at the same time."""
    calls = {
        name: [heard(replicas[name], each, leaves=n % LEAVER == 0) for n, each in enumerate(asked[name])]
        for name in replicas
    }
    answers = iter(await asyncio.gather(*(call for of_one in calls.values() for call in of_one)))
    return {name: [next(answers) for _ in of_one] for name, of_one in calls.items()}


def difference(samples: Samples, others: Samples) -> float:
    """Of two sounds as far as both go, as a share of the second (root mean square)."""
    both = min(len(samples), len(others))
    return float(np.linalg.norm(samples[:both] - others[:both]) / np.linalg.norm(others[:both]))


def assert_equal(together: Sequence[Samples], alone: Sequence[Samples]) -> None:
    """Each is as long as alone, or the beginning for a client that left, and the same but for rounding. Another request's
    sound would be found out: neighbours differ by much more."""
    for n, (got, wanted) in enumerate(zip(together, alone, strict=True)):
        assert 0 < len(got) <= len(wanted) if n % LEAVER == 0 else len(got) == len(wanted)
        assert difference(got, wanted) < ROUNDING
        assert difference(alone[n - 1], wanted) > 10 * ROUNDING


async def test_each_of_2000_requests_at_once_sounds_as_it_does_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = {name: case.load(tmp_path / name) for name, case in CASES.items()}
    asked = {name: requests_of(name, engine) for name, engine in engines.items()}
    assert sum(map(len, asked.values())) == REQUESTS
    replicas = {name: await replica_of(name, engine, CASES[name].most, monkeypatch) for name, engine in engines.items()}
    paths = {name: ForcedPath() for name in CASES}
    with ExitStack() as forced:
        for name, case in CASES.items():
            forced.enter_context(case.properties.following(engines[name], paths[name]))
        alone = {name: [joined(speak(engines[name], each)) for each in asked[name]] for name in CASES}
        together = await all_heard(replicas, asked)
    for name in CASES:
        assert_equal(together[name], alone[name])
        counts = replicas[name]._step_metrics.counts
        assert counts.items > 2 * counts.steps, f"the requests of {name} did not share steps"
