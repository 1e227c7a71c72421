"""What an update replaces: Ray Serve keeps the replicas of a deployment whose version does not change."""

from __future__ import annotations

from typing import Any

from ray.serve._private.build_app import build_app

from cluster.demand import AutoscalingSettings
from cluster.models import Model, Placement
from deployments.settings import StepSettings
from serve_app.app import application_of
from serve_app.config import AppConfig

TONE = Model(engine="simulated")
NOISE = Model(engine="identity")


def versions(start_timeout_s: float = 300.0, **models: Model) -> dict[str, str]:
    """The version of every deployment, by name."""
    config = AppConfig(models=models, start_timeout_s=start_timeout_s)
    built: Any = build_app(application_of(config), name="motet", default_runtime_env={})
    found = {deployment.name: deployment.version for deployment in built.deployments}
    assert all(found.values())
    return found


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


BEFORE = versions(tone=TONE, noise=NOISE)


def test_the_same_configuration_replaces_nothing() -> None:
    assert changed(BEFORE, versions(tone=TONE, noise=NOISE)) == set()


def test_steps_are_told_to_replicas_that_run() -> None:
    slim = TONE.model_copy(update={"steps": StepSettings(max_batch_size=1)})
    assert changed(BEFORE, versions(tone=slim, noise=NOISE)) == set()


def test_how_long_a_start_may_take_replaces_nothing() -> None:
    assert changed(BEFORE, versions(600.0, tone=TONE, noise=NOISE)) == set()


def test_a_changed_model_is_replaced_with_the_gateway_that_knows_it() -> None:
    faster = TONE.model_copy(update={"options": {"step_ms": 1}})
    assert changed(BEFORE, versions(tone=faster, noise=NOISE)) == {"tone@cpu", "gateway"}


def test_a_number_of_replicas_is_not_a_new_model() -> None:
    elastic = TONE.model_copy(update={"placements": (Placement(autoscaling=AutoscalingSettings()),)})
    assert changed(BEFORE, versions(tone=elastic, noise=NOISE)) == {"gateway"}


def test_models_come_and_go_beside_the_others() -> None:
    assert changed(BEFORE, versions(tone=TONE, noise=NOISE, more=TONE)) == {"more@cpu", "gateway"}
    assert changed(BEFORE, versions(noise=NOISE)) == {"tone@cpu", "gateway"}
