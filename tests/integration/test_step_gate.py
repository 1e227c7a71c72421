"""The gate in front of `@serve.batch` in a real replica: streams that started at different times step together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray import serve

from cluster.models import Model, Placement
from deployments.engines.protocols import AudioChunk, SpeechRequest
from deployments.replica.synthesizer import Synthesizer
from deployments.replica.wire import PackedChunk, unpack
from deployments.settings import StepSettings
from serve_app.replica_settings import replica_settings

STREAMS = 8
STEPS_OF_A_STREAM = 12
TEXT = "a" * 32  # 32 characters of 60 ms, in chunks of 160 ms


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": 0}, proxy_location="Disabled")
    yield
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


def deployed(name: str, **steps: Any) -> Any:
    model = Model(engine="simulated", options={"step_ms": 20}, steps=StepSettings.model_validate(steps))
    deployment = serve.deployment(
        name=name,
        max_ongoing_requests=64,
        user_config=model.steps.model_dump(),
        ray_actor_options={"num_cpus": 0},
    )(Synthesizer)
    return serve.run(deployment.bind(replica_settings(name, model, Placement())), name=name, route_prefix=None)


def spoken(handle: Any, texts: list[str]) -> list[list[AudioChunk]]:
    """Speaks all texts at once; each starts when the one before has requested its first chunk."""

    async def one(text: str, after_steps: int) -> list[AudioChunk]:
        for _ in range(after_steps):
            await handle.report.remote()  # takes a moment, so that no two streams start together
        stream = handle.options(stream=True).speak.remote(SpeechRequest((text,), "tone"))
        chunks = []
        async for item in stream:
            if isinstance(item, PackedChunk):
                chunks.append(unpack(item))
        return chunks

    async def everyone() -> list[list[AudioChunk]]:
        return await asyncio.gather(*(one(text, at) for at, text in enumerate(texts)))

    return asyncio.run(everyone())


def mean_batch(handle: Any, before: Any) -> float:
    after = handle.report.remote().result().steps
    return float((after.items - before.items) / (after.steps - before.steps))


def test_streams_that_start_apart_step_together_through_the_gate(cluster: None) -> None:
    handle = deployed("gated")
    before = handle.report.remote().result().steps
    heard = spoken(handle, [f"{n}{TEXT}" for n in range(STREAMS)])
    assert all(len(chunks) == STEPS_OF_A_STREAM + 1 for chunks in heard)
    assert mean_batch(handle, before) > STREAMS / 2


def test_a_poison_fails_alone(cluster: None) -> None:
    handle = deployed("poisoned")
    texts = [f"{n}{TEXT}" for n in range(3)]
    alone = spoken(handle, texts)
    mixed = spoken(handle, [*texts[:2], "poison " + TEXT, texts[2]])
    assert mixed[2] == []
    for one, other in zip(alone, [*mixed[:2], mixed[3]], strict=True):
        assert [chunk.samples.tobytes() for chunk in one] == [chunk.samples.tobytes() for chunk in other]


def test_a_stream_that_is_left_frees_its_slot(cluster: None) -> None:
    handle = deployed("left")

    async def leave() -> int:
        stream = handle.options(stream=True).speak.remote(SpeechRequest((TEXT * 50,), "tone"))
        await anext(aiter(stream))
        stream.cancel()
        for _ in range(200):
            if (open_streams := await handle.open_streams.remote()) == 0:
                return 0
            await asyncio.sleep(0.05)
        return int(open_streams)

    assert asyncio.run(leave()) == 0


def test_step_settings_change_while_running(cluster: None) -> None:
    """With the call by which Ray Serve gives a replica its new `user_config`."""
    handle = deployed("changing", max_batch_size=8)
    handle.reconfigure.remote(StepSettings(max_batch_size=1).model_dump()).result()
    before = handle.report.remote().result().steps
    spoken(handle, [f"{n}{TEXT}" for n in range(4)])
    assert mean_batch(handle, before) == 1.0
