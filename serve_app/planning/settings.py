"""What `motet plan` is told: traffic, models, machines, and what happens to them. Units are the end of a name.

The policies have the service's own settings, as in `serve_config.yaml`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cluster.planning.settings import MachineClass, PlannedModel, PlannedPlacement, ZoneLoss
from deployments.settings import (
    Count,
    NonNegative,
    PieceSettings,
    Positive,
    SpilloverSettings,
    StrictModel,
)
from serve_app.gateway.settings import AdmissionSettings, PacingSettings

Share = Annotated[float, Field(ge=0, le=1)]
DayCurve = Annotated[tuple[Share, ...], Field(min_length=1, max_length=1440)]
Hours = Annotated[float, Field(gt=0, le=24 * 31)]

MAX_STREAMS = 1_000_000.0
MIN_CHARACTERS, MAX_CHARACTERS = 2.0, 100_000.0
"""The length of a text."""
MAX_POINTS = 10_000
"""Points of the curves, which bound the memory of a plan."""


class TextLengths(StrictModel):
    """How long texts are: log-normal lengths."""

    mean_characters: Annotated[float, Field(ge=MIN_CHARACTERS, le=MAX_CHARACTERS)] = 200.0
    """The mean length."""
    spread: Annotated[float, Field(ge=0, le=3)] = 0.6
    """The standard deviation of the length's logarithm. 0: all texts have the mean length."""


class SpeechTraffic(StrictModel):
    """Requests for speech that arrive at random, whatever became of earlier ones."""

    model: str
    """The model that speaks."""
    streams_at_once: Annotated[float, Field(ge=0, le=MAX_STREAMS)]
    """Listeners at the busiest moment, if each hears its sound out and none is refused."""
    text: TextLengths = TextLengths()
    arrivals: Literal["poisson", "steady"] = "poisson"
    """poisson: independent clients. steady: one after the other at equal distances."""
    day_curve: DayCurve = (1.0,)
    """Shares of the busiest moment, at equal distances over the plan's duration. Values between them are interpolated."""
    pacing: Literal["fast", "played"] = "fast"
    """As `pacing_mode` of the service."""
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    """How often a client that was refused, or lost its stream, tries again after `Retry-After`."""
    keys: Annotated[int, Field(ge=0)] = 0
    """API keys among which the requests are divided. 0: the service has no keys."""


class LiveTraffic(StrictModel):
    """Conversations: a user speaks, the turn is heard, an answer is spoken and heard out, and so on."""

    sessions_at_once: Annotated[float, Field(ge=0, le=MAX_STREAMS)]
    """Conversations at the busiest moment."""
    speaks_with: str
    """The model of the answers."""
    hears_with: str | None = None
    """The model that hears the turns. Without it, turns cost nothing."""
    turn_s: Annotated[float, Field(gt=0, le=600)] = 6.0
    """Mean time that a user thinks and speaks."""
    hear_every_s: Annotated[float, Field(ge=0.1, le=600)] = 1.0
    """How often a turn is heard while it is spoken."""
    answer: TextLengths = TextLengths(mean_characters=150.0)
    """The text of an answer."""
    day_curve: DayCurve = (1.0,)
    """See `SpeechTraffic`."""


class RecordingTraffic(StrictModel):
    """Recordings to transcribe."""

    model: str
    """The model that transcribes."""
    per_hour: Annotated[float, Field(ge=0, le=1_000_000)]
    """Recordings that arrive in an hour at the busiest moment."""
    minutes: Annotated[float, Field(gt=0, le=600)] = 10.0
    """The length of each."""
    day_curve: DayCurve = (1.0,)
    """See `SpeechTraffic`."""


class BulkTraffic(StrictModel):
    """A bulk job with a deadline, on workers of its own beside the service."""

    model: str
    """The model that renders."""
    machines: str
    """The class of machines for its workers."""
    hours_of_audio: Positive
    """How much is rendered."""
    deadline_hours: Hours
    """When it must be done, from the start of the plan."""


class Traffic(StrictModel):
    """What the service is asked for."""

    speech: tuple[SpeechTraffic, ...] = ()
    live: tuple[LiveTraffic, ...] = ()
    recordings: tuple[RecordingTraffic, ...] = ()
    bulk: tuple[BulkTraffic, ...] = ()


class GatewaySettings(StrictModel):
    """The gateway replicas, and the network."""

    replicas: Count = 1
    """Gateway replicas."""
    price_per_hour: NonNegative = 0.0
    """What one costs for an hour."""
    request_ms: NonNegative = 2.0
    """Time of the gateway's core for a request: keys, text, admission."""
    chunk_ms: NonNegative = 0.3
    """Time of its core for a chunk of audio."""
    refusal_ms: NonNegative = 1.0
    """Time of its core for a request that it refuses."""
    hop_ms: NonNegative = 5.0
    """All other time between a client and a step, both ways together."""


class ServiceRules(StrictModel):
    """The settings of the service that decide about requests, with the service's own defaults."""

    admission: AdmissionSettings = AdmissionSettings()
    pacing: PacingSettings = PacingSettings()
    pieces: PieceSettings = PieceSettings()
    spillover: SpilloverSettings = SpilloverSettings()
    request_seconds_of_audio: Positive = 10.0
    """The most audio of one request to a replica, about."""
    windows_max_wait_s: Positive = 120.0
    """`windows.max_wait_s` of the service."""


class Promise(StrictModel):
    """What the service promises its clients."""

    first_sound_p95_ms: Positive = 500.0
    """The 95th percentile of times to first sound."""
    refused_percent: Annotated[float, Field(ge=0, le=100)] = 1.0
    """The most requests that are refused."""
    gaps_percent: Annotated[float, Field(ge=0, le=100)] = 1.0
    """The most admitted streams that have a gap or fail. One that fails before its first sound counts too."""


class PlanSettings(StrictModel):
    """One plan: what is asked for, and what answers."""

    duration_s: Annotated[float, Field(gt=0, le=31 * 86_400)] = 3600.0
    """How long is simulated."""
    warm_up_s: NonNegative = 0.0
    """The beginning that is not counted."""
    seed: Annotated[int, Field(ge=0)] = 1
    """The same seed gives the same result."""
    cells: Count = 1
    """The traffic and the fleet are divided into so many equal parts, each behind gateways of its own. One is simulated."""
    interval_s: Positive = 300.0
    """The time between two points of the curves."""
    traffic: Traffic
    models: Annotated[Mapping[str, PlannedModel], Field(min_length=1)]
    machines: Annotated[Mapping[str, MachineClass], Field(min_length=1)]
    gateways: GatewaySettings = GatewaySettings()
    rules: ServiceRules = ServiceRules()
    zone_losses: tuple[ZoneLoss, ...] = ()
    promise: Promise = Promise()

    @model_validator(mode="after")
    def _known_names(self) -> PlanSettings:
        used = {placed.machines for model in self.models.values() for placed in model.placements}
        used |= {loss.machines for loss in self.zone_losses} | {job.machines for job in self.traffic.bulk}
        if unknown := sorted(used - set(self.machines)):
            raise ValueError(f"there are no machines {unknown[0]!r}; machines: {', '.join(self.machines)}")
        for name, task in self._wanted_models():
            if name not in self.models:
                raise ValueError(f"there is no model {name!r}; models: {', '.join(self.models)}")
            if self.models[name].task != task:
                raise ValueError(f"the model {name!r} does {self.models[name].task}, not {task}")
        if self.warm_up_s >= self.duration_s:
            raise ValueError("warm_up_s must be less than duration_s")
        if self.duration_s / self.interval_s > MAX_POINTS:
            raise ValueError(f"duration_s has more than {MAX_POINTS} times interval_s")
        return self

    @model_validator(mode="after")
    def _losses_that_happen(self) -> PlanSettings:
        for loss in self.zone_losses:
            zones = self.machines[loss.machines].zones
            if loss.zone >= zones:
                raise ValueError(f"{loss.machines!r} has no zone {loss.zone}; its zones: 0 to {zones - 1}")
            if loss.at_s >= self.duration_s:
                raise ValueError(
                    f"a zone is lost at {loss.at_s:g} s, which is not before duration_s, {self.duration_s:g}"
                )
        return self

    @model_validator(mode="after")
    def _one_placement_a_class(self) -> PlanSettings:
        for name, model in self.models.items():
            classes = [placed.machines for placed in model.placements]
            if len(classes) != len(set(classes)):
                raise ValueError(f"the model {name!r} has two placements on one class of machines")
        return self

    def _wanted_models(self) -> list[tuple[str, str]]:
        """The models that the traffic names, and the task that it wants of each."""
        traffic = self.traffic
        speech = [*(each.model for each in traffic.speech), *(each.speaks_with for each in traffic.live)]
        speech += (each.model for each in traffic.bulk if self.models.get(each.model, _SPEECH).task == "speech")
        heard = [each.hears_with for each in traffic.live if each.hears_with is not None]
        heard += (each.model for each in traffic.recordings)
        return [*((name, "speech") for name in speech), *((name, "transcription") for name in heard)]


_SPEECH = PlannedModel(placements=(PlannedPlacement(machines="any"),))
