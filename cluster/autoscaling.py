"""Ray Serve's autoscaling policy and settings for a placement.

Ray Serve sends the classes of this module to its controller as a copy for each deployment. What the copies share is in
`cluster.demand`, which the controller imports.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.serve.config import AutoscalingConfig, AutoscalingContext
from ray.serve.config import AutoscalingPolicy as RayPolicy

from cluster import demand
from cluster.demand import AutoscalingSettings
from deployments.replica import load


def autoscaling_config(
    model: str, settings: AutoscalingSettings, request_seconds_of_audio: float, spare: int = 0
) -> AutoscalingConfig:
    """Ray Serve's settings for one placement of `model`, with `spare` replicas more than its load needs. A request that no
    replica has seen yet counts as `request_seconds_of_audio`."""
    return AutoscalingConfig(
        min_replicas=with_spare(settings.min_replicas, spare),
        max_replicas=settings.max_replicas + spare,
        upscale_delay_s=settings.up_after_s,
        downscale_delay_s=settings.down_after_s,
        downscale_to_zero_delay_s=settings.zero_after_s,
        look_back_period_s=settings.look_back_s,
        policy=RayPolicy(  # type: ignore[no-untyped-call]
            policy_function="cluster.autoscaling:QueuedAudioPolicy",
            policy_kwargs={
                "model": model,
                "request_seconds_of_audio": request_seconds_of_audio,
                "settings": settings.model_dump(),
                "spare": spare,
            },
        ),
    )


def with_spare(replicas: int, spare: int) -> int:
    """A number of replicas with the spare ones, which only a placement that has replicas has."""
    return replicas + spare if replicas else 0


class QueuedAudioPolicy:
    """The replicas that the waiting audio of a model needs, minus those of cheaper placements, and the spare ones."""

    def __init__(
        self,
        model: str,
        settings: Mapping[str, Any],
        request_seconds_of_audio: float,
        board: demand.DemandBoard | None = None,
        spare: int = 0,
    ) -> None:
        self._model = model
        self._request_seconds = request_seconds_of_audio
        self._spare = spare
        board = demand.BOARD if board is None else board
        self._scaling = demand.PlacementScaling(AutoscalingSettings.model_validate(settings), board)

    def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number of replicas needed now. Ray Serve applies the delays."""
        reported = ctx.aggregated_metrics or {}
        queued, first_sounds = (reported.get(name, {}).values() for name in (load.QUEUED, load.FIRST_SOUND_P95))
        now = self._scaling.load(queued, first_sounds, ctx.total_queued_requests * self._request_seconds)
        model, now_s = demand.ModelKey(ctx.app_name, self._model), ctx.current_time or 0.0
        running, target = (max(0, count - self._spare) for count in (ctx.current_num_replicas, ctx.target_num_replicas))
        wanted = self._scaling.wanted(model, ctx.deployment_name, running, target, now, now_s)
        return with_spare(wanted, self._spare), {}
