"""Settings of admission and placement."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from deployments.settings import StrictModel

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class AdmissionSettings(StrictModel):
    """How much audio may wait to be made, and how speed is measured. Seconds of audio are those still to be made."""

    max_queued_seconds_of_audio: Positive = 3600.0
    """The most audio that may wait at one placement. A request longer than this counts as this much."""
    max_queued_seconds_of_audio_per_key: Positive = 1800.0
    """The most audio of one API key that may wait, over all placements."""
    max_wait_s: Positive = 10.0
    """A request is refused if its first audio is predicted to take longer."""
    speed_memory_s: Positive = 5.0
    """Time constant with which measured speeds are forgotten."""
    first_speed: Positive = 20.0
    """Speed in audio seconds per second that is assumed before any was measured."""
    short_seconds_of_audio: NonNegative = 10.0
    """A request of at most this much may exceed both limits by this much, so that a book does not keep out a chat reply."""
    max_retry_after_s: Positive = 60.0
    """The largest `Retry-After`. Predictions beyond it are too uncertain."""
    paused_after_s: Positive = 1.0
    """A client that has requested nothing for this long, such as one that stopped reading, counts as paused."""
    paused_seconds_of_audio: Positive = 10.0
    """The most audio of a paused client that counts as queued: what it may request at once when it goes on."""


class SpilloverSettings(StrictModel):
    """When a request moves on to another placement of its model."""

    silent_s: Positive = 1.0
    """A placement that has not answered a request for this long gets a health check."""
    life_sign_s: Positive = 1.0
    """How long the health check may take. A replica answers it beside its engine, however busy that is."""
    last_life_sign_s: Positive = 5.0
    """The additional time for the last placement of a model. If none of its replicas answers by then, requests for the model
    are answered 503 at once until one does."""
    ask_again_s: Positive = 0.5
    """After this the health check is repeated if the replica that should have answered it is gone."""
    wake_s: Positive = 60.0
    """When no placement has a replica: how long the first one may take to start one before the next one is used too."""
