"""What bulk jobs with a deadline need: arithmetic, not simulation, since their workers share nothing with the service."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.planning.engine_times import StepTimes
from cluster.planning.settings import PlannedPlacement
from deployments.errors import fail
from serve_app.planning.settings import BulkTraffic, PlanSettings

PIECE_SECONDS = 250 / 15
"""Audio of one piece of a long text."""
WINDOW_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class BulkNeeds:
    """The machines of a job, from its start to its end, and what they cost."""

    kind: str
    machines: int
    hours: float
    cost: float


def speed(settings: PlanSettings, job: BulkTraffic) -> float:
    """Hours of audio that one worker makes or hears in an hour, with full batches."""
    model = settings.models[job.model]
    engine = _placement(settings, job).engine
    whole = WINDOW_SECONDS if model.task == "transcription" else PIECE_SECONDS
    seconds = engine.chunk_seconds_of_audio or whole
    batch = model.steps.max_batch_size
    return batch * seconds / StepTimes(engine).of([seconds] * batch, first=False)


def needs(settings: PlanSettings, job: BulkTraffic) -> BulkNeeds:
    """What a job needs to end in time. Raises `MotetError` (invalid) if the deadline is too close to start machines."""
    kind = settings.machines[job.machines]
    start_h = (kind.provision_s + kind.image_s + kind.join_s + _placement(settings, job).load_s) / 3600
    if start_h >= job.deadline_hours:
        cause = (
            f"Machines of the class {job.machines!r} take {start_h * 3600:.0f} s to start, longer than the deadline."
        )
        raise fail("invalid", cause, "Raise deadline_hours.")
    each = speed(settings, job) * kind.replicas_each
    machines = math.ceil(job.hours_of_audio / (each * (job.deadline_hours - start_h)))
    hours = start_h + job.hours_of_audio / (each * machines)
    return BulkNeeds(job.machines, machines, hours, machines * hours * kind.price_per_hour)


def bulk_needs(settings: PlanSettings) -> Mapping[str, BulkNeeds]:
    """What each job needs. Raises `MotetError` (invalid) if all of them, which begin together, need more than the most of a
    class of machines."""
    jobs = settings.traffic.bulk
    found = {f"bulk {number} {job.model}": needs(settings, job) for number, job in enumerate(jobs, 1)}
    machines = Counter[str]()
    for each in found.values():
        machines[each.kind] += each.machines
    for kind, count in machines.items():
        if count > (most := settings.machines[kind].most):
            cause = f"The bulk jobs need {count:,} machines of the class {kind!r}, which has at most {most:,}."
            raise fail("invalid", cause, "Raise deadline_hours, use another class, or raise its most.")
    return found


def _placement(settings: PlanSettings, job: BulkTraffic) -> PlannedPlacement:
    for placement in settings.models[job.model].placements:
        if placement.machines == job.machines:
            return placement
    cause = f"The bulk job wants the model {job.model!r} on {job.machines!r}, where it has no placement."
    raise fail("invalid", cause, "Add a placement, or name another class of machines.")
