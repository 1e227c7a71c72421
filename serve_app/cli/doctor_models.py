"""Each model, loaded and tried once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import psutil

from cluster.models import Model, Placement
from deployments.engines import registry, weight_sources
from deployments.engines.protocols import Chunk, SpeechRequest
from deployments.engines.registry import Task
from deployments.errors import MotetError
from deployments.tasks.in_process_speech import speak_here
from deployments.tasks.transcription import probe_window
from serve_app.cli import local
from serve_app.cli.findings import Finding

MOST_NAMES = 8


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
        about = TRIALS[model.task](engine)
    except MotetError as error:
        return Finding("models", label, "broken", error.failure.cause, error.failure.remedy)
    except Exception as error:
        remedy = f"Reinstall its library: {registry.find(model.engine).remedy}"
        return Finding("models", label, "broken", local.reason_of(error), remedy)
    answered = time.perf_counter()
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
    if source is None or source.kind != "hf" or weight_sources.is_downloaded(source, model.sha256):
        return ""
    return f"The first start downloads it; or: hf download {source.name} --revision {source.revision}"


def _try_speech(engine: Any) -> str:
    traits = engine.traits
    seconds = sum(chunk.seconds for chunk in speak_here(SpeechRequest(("Ready.",), traits.default_voice), engine))
    assert seconds > 0, "the model made no sound"
    return f"voices: {_few([voice.id for voice in traits.voices])}; {traits.sample_rate} Hz"


def _try_transcription(engine: Any) -> str:
    _raise(engine.transcribe([probe_window(engine.traits.sample_rate)])[0])
    return f"languages: {_few(engine.traits.languages) or 'any'}"


def _try_separation(engine: Any) -> str:
    traits = engine.traits
    rate = traits.sample_rates[0]
    _raise(engine.separate([Chunk(np.zeros((1, rate), np.float32), rate, 0)])[0])
    return f"stems: {_few(traits.stems)}"


def _few(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _raise(result: Any) -> None:
    if isinstance(result, Exception):
        raise result


TRIALS: Mapping[Task, Callable[[Any], str]] = {
    "speech": _try_speech,
    "transcription": _try_transcription,
    "separation": _try_separation,
}
