"""Each model, loaded and tried once."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil

from cluster.models import Model, Placement
from deployments.engines import registry, weight_sources
from deployments.errors import MotetError
from serve_app.cli import local
from serve_app.cli.findings import Finding
from serve_app.cli.models_trial import TRIALS


def model_findings(name: str, model: Model, present: set[str]) -> Iterator[Finding]:
    """Each placement of a model, loaded and tried where its hardware is `present`."""
    for placement in model.placements:
        yield _placed(f"{name}@{placement.hardware.kind}", name, model.on(placement), placement, present)


def _placed(label: str, name: str, model: Model, placement: Placement, present: set[str]) -> Finding:
    kind = placement.hardware.kind
    if kind not in present:
        detail = f"{model.source or model.engine}: this machine has no {kind}"
        return Finding("models", label, "absent", detail, f"Join a machine with {kind}, or add a placement on another.")
    if waiting := _to_download(model):
        return Finding("models", label, "absent", f"{model.source}: not downloaded yet", waiting)
    started, held = time.perf_counter(), psutil.Process().memory_info().rss
    try:
        engine = local.load_engine(name, model, placement.hardware)
        loaded = time.perf_counter()
        TRIALS[model.task].work(engine, True)
    except MotetError as error:
        return Finding("models", label, "broken", error.failure.cause, error.failure.remedy)
    except Exception as error:
        remedy = f"Reinstall its library: {registry.find(model.engine).remedy}"
        return Finding("models", label, "broken", local.reason_of(error), remedy)
    answered, about = time.perf_counter(), TRIALS[model.task].traits(engine)
    times = f"loaded in {loaded - started:.2f} s, answered in {answered - loaded:.2f} s"
    spare = _spare(placement.spare, psutil.Process().memory_info().rss - held)
    return Finding("models", label, "ok", f"{model.task}; {about}; {times}; {model.source or 'no weights'}{spare}")


def _spare(count: int, loaded_bytes: int) -> str:
    """What spare replicas cost. `loaded_bytes` is what the loaded model takes in this process."""
    if not count:
        return ""
    return f"; {count} spare: each takes {max(loaded_bytes, 0) / 1e6:.0f} MB for the model, and a process of its own"


def _to_download(model: Model) -> str:
    """The line that fetches a hub model which is not on this disk; nothing for others."""
    source = weight_sources.parse(model.source) if model.source else None
    if source is None or source.kind != "hf" or weight_sources.is_downloaded(source, model.sha256, model.beside):
        return ""
    commands = [
        f"hf download {hub.name} --revision {hub.revision}" for hub in (source, *(each.hub for each in model.beside))
    ]
    return f"The first start downloads it; or: {' and '.join(commands)}"
