"""Ray Serve's own configuration file changes some step settings of running replicas."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from deployments.engines.protocols import SpeechRequest
from serve_app.cli.processes import command_line, descendants

TEXT = "Four of these at once make a batch."
MODEL = {
    "engine": "simulated",
    "steps": {"max_batch_size": 4},
    "placements": [{"hardware": {"kind": "cpu", "cpus": 0}}],
}


@pytest.fixture
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": 0}, proxy_location="Disabled")
    yield
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


def apply(*deployments: dict[str, Any]) -> Any:
    """Deploys like `serve deploy`. Returns a handle of the model."""
    application = {
        "name": "motet",
        "import_path": "serve_app.app:build",
        "args": {"defaults": False, "models": {"tone": MODEL}},
        "deployments": list(deployments),
    }
    client: Any = _get_global_client()
    client.deploy_apps(ServeDeploySchema.model_validate({"applications": [application]}), _blocking=True)
    return serve.get_deployment_handle("tone@cpu", "motet")


def replicas() -> set[int]:
    """The processes of the model's replicas, on this test's cluster."""
    family = descendants(os.getpid())
    return {process.pid for process in family if "ServeReplica:motet:tone@cpu" in " ".join(command_line(process))}


def mean_batch(handle: Any) -> float:
    """The mean batch size of four streams that start together."""

    async def one(seed: int) -> None:
        async for _ in handle.options(stream=True).speak.remote(SpeechRequest((TEXT,), "tone", seed=seed)):
            pass

    async def four() -> None:
        await asyncio.gather(*(one(seed) for seed in range(4)))

    before = handle.report.remote().result().steps
    asyncio.run(four())
    after = handle.report.remote().result().steps
    return float((after.items - before.items) / (after.steps - before.steps))


def test_step_settings_change_without_a_new_replica(cluster: None) -> None:
    handle = apply()
    first = replicas()
    assert len(first) == 1
    assert mean_batch(handle) > 2
    assert mean_batch(apply({"name": "tone@cpu", "user_config": {"max_batch_size": 1}})) == 1
    # Settings that the file leaves out keep the model's values.
    assert mean_batch(apply({"name": "tone@cpu", "user_config": {"batch_wait_ms": 5}})) > 2
    assert replicas() == first
