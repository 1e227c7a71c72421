"""The autoscaling policy of Ray Serve: reports of replicas become numbers of replicas, for all placements of a model."""

from __future__ import annotations

from typing import Any

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from cluster.autoscaling import QueuedAudioPolicy, autoscaling_config
from cluster.demand import AutoscalingSettings, DemandBoard
from cluster.hardware import CudaClass, MlxClass
from cluster.models import Model, Placement
from deployments.replica.load import FIRST_SOUND_P95, QUEUED
from serve_app.app import application_of
from serve_app.config import AppConfig

CHEAP = AutoscalingSettings(min_replicas=1, max_replicas=2, target_queued_seconds_of_audio=10, cost=1, stuck_after_s=60)
DEAR = AutoscalingSettings(max_replicas=2, target_queued_seconds_of_audio=100, cost=9)


class Placed:
    """One placement as Ray Serve's controller sees it."""

    def __init__(
        self,
        name: str,
        settings: AutoscalingSettings,
        board: DemandBoard,
        running: int,
        application: str = "motet",
        spare: int = 0,
    ) -> None:
        self.name = name
        self.application = application
        self.running = self.target = running
        self.queued: list[float] = [0.0] * running
        self.first_sounds: list[float] = [0.0] * running
        self.waiting = 0.0
        self._policy = QueuedAudioPolicy("m", settings.model_dump(), 10.0, board, spare)

    def wants(self, now_s: float) -> int:
        """The replicas that the policy wants."""
        deployment = DeploymentID(self.name, self.application)
        ids = [ReplicaID(str(number), deployment) for number in range(len(self.queued))]
        told: dict[str, dict[ReplicaID, float]] = {
            QUEUED: dict(zip(ids, self.queued, strict=True)),
            FIRST_SOUND_P95: dict(zip(ids, self.first_sounds, strict=True)),
        }
        context = AutoscalingContext(
            deployment_id=deployment,
            deployment_name=self.name,
            app_name=self.application,
            current_num_replicas=self.running,
            target_num_replicas=self.target,
            running_replicas=ids,
            total_num_requests=self.waiting,
            total_queued_requests=self.waiting,
            aggregated_metrics=told,
            raw_metrics=None,
            capacity_adjusted_min_replicas=0,
            capacity_adjusted_max_replicas=9,
            policy_state={},
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=now_s,
            config=None,
        )
        return self._policy(context)[0]


@pytest.fixture
def placed() -> tuple[Placed, Placed]:
    board = DemandBoard()
    return Placed("m@cpu", CHEAP, board, 1), Placed("m@cuda", DEAR, board, 0)


def test_what_waits_at_the_cheap_class_brings_the_dear_one_up_and_lets_it_go(placed: tuple[Placed, Placed]) -> None:
    cpu, cuda = placed
    assert (cpu.wants(0), cuda.wants(0)) == (1, 0)
    cpu.queued = [19.0]
    assert (cpu.wants(1), cuda.wants(1)) == (2, 0)
    cpu.running, cpu.queued, cpu.first_sounds = 2, [30.0, 20.0], [0.0, 0.0]
    assert (cpu.wants(2), cuda.wants(2)) == (2, 1)
    cuda.running, cuda.queued, cuda.first_sounds = 1, [3.0], [0.1]
    cpu.queued = [4.0, 0.0]
    assert (cpu.wants(3), cuda.wants(3)) == (1, 0)


def test_applications_that_call_a_model_the_same_do_not_meet() -> None:
    board = DemandBoard()
    ours, theirs = Placed("m@cpu", CHEAP, board, 1), Placed("m@cuda", DEAR, board, 0, "theirs")
    ours.queued = [500.0]
    assert (ours.wants(0), theirs.wants(0)) == (2, 0)


def test_requests_that_no_replica_has_seen_count(placed: tuple[Placed, Placed]) -> None:
    cpu, _ = placed
    cpu.waiting = 2.0
    assert cpu.wants(0) == 2


def test_late_first_sounds_bring_a_replica(placed: tuple[Placed, Placed]) -> None:
    cpu, _ = placed
    cpu.queued, cpu.first_sounds = [1.0], [0.6]
    assert cpu.wants(0) == 2


def test_replicas_that_do_not_come_up_send_the_load_to_the_next_class(placed: tuple[Placed, Placed]) -> None:
    cpu, cuda = placed
    cpu.target, cpu.queued = 2, [20.0]
    assert (cpu.wants(0), cuda.wants(0)) == (2, 0)
    assert (cpu.wants(59), cuda.wants(59)) == (2, 0)
    assert (cpu.wants(60), cuda.wants(60)) == (2, 1)
    cpu.running, cpu.queued = 2, [10.0, 10.0]
    cpu.first_sounds = [0.0, 0.0]
    assert (cpu.wants(61), cuda.wants(61)) == (2, 0)


def test_a_placement_with_autoscaling_is_bound_with_our_policy() -> None:
    placements = (Placement(autoscaling=CHEAP), Placement(hardware=CudaClass(), replicas=3))
    config = AppConfig(models={"m": Model(engine="simulated", placements=placements)})
    gateway: Any = application_of(config)
    bound = gateway._bound_deployment.init_args[1]["m"]
    scaled = bound["cpu"]._bound_deployment._deployment_config.autoscaling_config
    assert isinstance(scaled, AutoscalingConfig)
    assert (scaled.min_replicas, scaled.max_replicas, scaled.upscale_delay_s) == (1, 2, CHEAP.up_after_s)
    assert not scaled.policy.is_default_policy_function()
    assert bound["cuda"]._bound_deployment._deployment_config.num_replicas == 3


def test_spare_replicas_come_on_top_of_what_the_load_needs() -> None:
    placements = (
        Placement(autoscaling=CHEAP, spare=1),
        Placement(hardware=CudaClass(), replicas=3, spare=2),
        Placement(hardware=MlxClass(), autoscaling=DEAR, spare=1),
    )
    config = AppConfig(models={"m": Model(engine="simulated", placements=placements)})
    gateway: Any = application_of(config)
    bound = gateway._bound_deployment.init_args[1]["m"]
    settings = {kind: each._bound_deployment._deployment_config for kind, each in bound.items()}
    assert settings["cuda"].num_replicas == 5
    assert settings["cuda"].request_router_config.request_router_kwargs == {"spare": 2}
    warm, cold = settings["cpu"].autoscaling_config, settings["mlx"].autoscaling_config
    assert (warm.min_replicas, warm.max_replicas) == (2, 3)
    assert (cold.min_replicas, cold.max_replicas) == (0, DEAR.max_replicas + 1)  # none while nobody asks


def test_a_placement_with_a_spare_replica_follows_the_load_as_without() -> None:
    with_spare, without = (Placed("m@cpu", CHEAP, DemandBoard(), 1, spare=spare) for spare in (1, 0))
    with_spare.running = with_spare.target = 2
    for queued in ([0.0], [200.0]):
        with_spare.queued = without.queued = queued
        assert with_spare.wants(0) == without.wants(0) + 1


def test_policies_meet_although_ray_serve_carries_each_as_a_copy() -> None:
    """In the controller each deployment has its own copy of the policy's module."""
    found = []
    for name, settings in (("m@cpu", CHEAP), ("m@cuda", DEAR)):
        policy = autoscaling_config("m", settings, 10.0).policy
        made = policy.get_policy()(**policy.policy_kwargs)
        copy = Placed(name, settings, DemandBoard(), 1)
        copy._policy, copy.queued = made, [500.0]
        found.append(copy)
    now_s = 1e9
    found[0].wants(now_s)
    found[1].queued = [0.0]
    assert found[1].wants(now_s) == 2
