"""What a plan says of models, their engines, and machines. Units are the end of a name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cluster.demand import AutoscalingSettings
from deployments.settings import Count, NonNegative, Positive, StepSettings, StrictModel


class EngineTimes(StrictModel):
    """How long the steps of an engine take, from the end of a step to the end of the next. Measure them:
    `motet bench ... --json`."""

    step_ms: Annotated[Mapping[Count, Positive], Field(min_length=1)] = {1: 50.0}
    """Batch size to time. Sizes between are interpolated, larger ones extrapolated."""
    chunk_seconds_of_audio: Positive | None = None
    """Audio that a step gives each stream. null: a step speaks a whole piece, or hears a whole window."""
    ms_per_second_of_audio: NonNegative = 0.0
    """Added for each second of audio of a step. Items are padded to the longest of their batch."""
    first_step_ms: NonNegative = 0.0
    """Added to a step in which a stream begins, such as for its prompt."""
    benchmark: str | None = None
    """The JSON file of a benchmark. Its figures "step, batch N" in ms replace `step_ms`."""


class PlannedPlacement(StrictModel):
    """Replicas of a model on one class of machines. See `Placement` of the service's configuration."""

    machines: str
    """The class of machines."""
    engine: EngineTimes = EngineTimes()
    """How fast the model is there."""
    replicas: Count | None = None
    """A fixed number; 1 without `autoscaling`."""
    autoscaling: AutoscalingSettings | None = None
    """Lets the load decide. Excludes `replicas`."""
    max_ongoing_requests: Count = 64
    """Requests of a replica at the same time."""
    max_queued_requests: Count = 128
    """Requests of a gateway replica that wait for a replica."""
    load_s: NonNegative = 5.0
    """From the start of a replica's process to its first step: the model loads and warms up."""

    @model_validator(mode="after")
    def _one_number(self) -> PlannedPlacement:
        if self.autoscaling is not None and self.replicas is not None:
            raise ValueError("replicas and autoscaling exclude each other: use min_replicas and max_replicas")
        return self

    @property
    def first_replicas(self) -> int:
        """Replicas at the start."""
        return self.autoscaling.min_replicas if self.autoscaling else self.replicas or 1


class PlannedModel(StrictModel):
    """A model of the service."""

    task: Literal["speech", "transcription"] = "speech"
    """What it does."""
    characters_per_second: Positive = 15.0
    """How fast its voice reads. Predictions of the service assume 15."""
    steps: StepSettings = StepSettings()
    max_wait_s: Positive | None = None
    """Overrides the service's `max_wait_s` for this model."""
    placements: Annotated[tuple[PlannedPlacement, ...], Field(min_length=1)]


class MachineClass(StrictModel):
    """Machines of one kind that can be rented or owned."""

    replicas_each: Count = 1
    """Replicas that fit on a machine."""
    price_per_hour: NonNegative = 0.0
    """What a machine costs for an hour, from the moment it is requested."""
    least: Annotated[int, Field(ge=0)] = 0
    """Machines that are kept without load."""
    most: Count = 1_000_000
    """The limit of the account or the rack."""
    zones: Annotated[int, Field(ge=1, le=16)] = 1
    """Zones over which machines are spread evenly."""
    provision_s: NonNegative = 60.0
    """From the request for a machine until it boots."""
    image_s: NonNegative = 60.0
    """From then until its container image is there."""
    join_s: NonNegative = 5.0
    """From then until it is part of the Ray cluster."""
    idle_s: NonNegative = 300.0
    """A machine without replicas is given back after this long."""
    lost_per_hour: NonNegative = 0.0
    """How many of 1 machine the provider takes back in an hour, on average (spot)."""
    measured: bool = False
    """Whether the figures of engines on this class were measured. The report marks what was not."""
    source: str = ""
    """Where the price is from, with its date."""


class ZoneLoss(StrictModel):
    """All machines of a zone end at once."""

    at_s: NonNegative
    """When, from the start."""
    machines: str
    """The class of machines."""
    zone: Annotated[int, Field(ge=0)] = 0
    """Which of its zones."""
    lasts_s: NonNegative = 600.0
    """How long the zone gives no machines."""
