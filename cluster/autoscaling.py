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


def autoscaling_config(model: str, settings: AutoscalingSettings, request_seconds_of_audio: float) -> AutoscalingConfig:
    """Ray Serve's settings for one placement of `model`. A request that no replica has seen yet counts as
    `request_seconds_of_audio`."""
    return AutoscalingConfig(
        min_replicas=settings.min_replicas,
        max_replicas=settings.max_replicas,
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
            },
        ),
    )


class QueuedAudioPolicy:
    """The replicas that the waiting audio of a model needs, minus those of cheaper placements."""

    def __init__(
        self,
        model: str,
        settings: Mapping[str, Any],
        request_seconds_of_audio: float,
        board: demand.DemandBoard | None = None,
    ) -> None:
        self._model = model
        self._settings = AutoscalingSettings.model_validate(settings)
        self._request_seconds = request_seconds_of_audio
        self._board = demand.BOARD if board is None else board
        self._short_since_s: float | None = None

    def __call__(self, ctx: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The number of replicas needed now. Ray Serve applies the delays."""
        now_s = ctx.current_time or 0.0
        model = demand.ModelKey(ctx.app_name, self._model)
        self._board.report(model, self._capacity(ctx, now_s), self._load(ctx), now_s)
        return demand.replicas_wanted(self._board.placements(model, now_s))[ctx.deployment_name], {}

    def _capacity(self, ctx: AutoscalingContext, now_s: float) -> demand.PlacementCapacity:
        settings = self._settings
        if ctx.current_num_replicas >= ctx.target_num_replicas:
            self._short_since_s = None
        elif self._short_since_s is None:
            self._short_since_s = now_s
        stuck = self._short_since_s is not None and now_s - self._short_since_s >= settings.stuck_after_s
        return demand.PlacementCapacity(
            name=ctx.deployment_name,
            cost=settings.cost,
            least=settings.min_replicas,
            most=settings.max_replicas,
            seconds_each=settings.target_queued_seconds_of_audio,
            running=ctx.current_num_replicas,
            stuck=stuck,
        )

    def _load(self, ctx: AutoscalingContext) -> demand.PlacementLoad:
        reported = ctx.aggregated_metrics or {}
        queued = sum(reported.get(load.QUEUED, {}).values())
        late_s = max(reported.get(load.FIRST_SOUND_P95, {}).values(), default=0.0)
        waiting = ctx.total_queued_requests * self._request_seconds
        return demand.PlacementLoad(queued + waiting, late_s * 1000 / self._settings.target_first_sound_ms)
