"""The service that `motet bench serve` measures: its configuration, its requests, and how much is measured."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deployments.text.sample_sentences import SENTENCES
from serve_app import profiles
from serve_app.bench.all_cores import texts
from serve_app.bench.load import (
    LoadSummary,
    StreamRequest,
    StreamResult,
    summary,
)
from serve_app.bench.running_service import RunningProgram, running_service
from serve_app.config import DEFAULT_MODELS

GATE, NO_GATE, ONE = "simulated", "simulated-no-gate", "simulated-batch-1"
PATIENT = "hibari-default"
"""hibari with the default settings, whose clients are not refused in a test of how long they wait."""
CHARACTER_MS = 60.0
"""Milliseconds of audio that a simulated engine makes for a character."""
CHUNK_MS = 320.0
"""Milliseconds of audio that a simulated engine makes in a step."""
ALL_AT_ONCE = 200
MAX_WAIT_S = 0.07
"""The longest predicted wait for the first sound of an accepted request in the overload test."""
SHORT_SENTENCES = [sentence for sentence in SENTENCES if len(sentence) < 85]
"""Sentences of two to six seconds: the result of a short run depends little on which sentence comes last."""


@dataclass(frozen=True, slots=True)
class ServePlan:
    """How much is measured. Times in seconds."""

    gate_rounds: int
    core_rounds: int
    core_s: float
    fast_rounds: int
    fast_s: float
    saturation_s: float
    single_streams: int
    listeners_s: float
    capacity_s: float
    streams: int
    overload_s: float
    preset_rounds: int
    curve: tuple[float, ...]


def config() -> dict[str, Any]:
    """The default voice without and with a bound on the wait, and three simulated models: a normal one, one without the gate,
    and one without batches."""
    default = DEFAULT_MODELS["hibari"].model_dump(mode="json")
    return {
        "models": {
            PATIENT: default | {"aliases": []},
            "hibari": DEFAULT_MODELS["hibari"].model_dump(mode="json") | {"max_wait_s": MAX_WAIT_S},
            GATE: _simulated(max_batch_size=8),
            NO_GATE: _simulated(max_batch_size=8, gate=False),
            ONE: _simulated(max_batch_size=1),
        },
        # Enough for the 100 clients that leave, but not for those and the 200 after them, if the first were still counted.
        "speech": {"admission": {"max_queued_seconds_of_audio": 850.0}},
    }


def _simulated(**steps: object) -> dict[str, Any]:
    # Places for the 200 requests and one report: a leaked place makes one fail. Every request counts as queued for a
    # moment on its way to a replica.
    places = {"max_ongoing_requests": ALL_AT_ONCE + 1, "max_queued_requests": ALL_AT_ONCE}
    placement = {"hardware": {"kind": "cpu", "cpus": 0.1}, **places}
    options = {"step_ms": 50, "chunk_ms": CHUNK_MS, "character_ms": CHARACTER_MS}
    return {
        "engine": "simulated",
        "options": options,
        "steps": steps,
        "max_wait_s": 600.0,
        "placements": [placement],
    }


@contextmanager
def service_of(arguments: Mapping[str, Any]) -> Iterator[RunningProgram]:
    """Runs the real service with these arguments, for as long as the context. Without `models` it has the default ones."""
    own = {"defaults": "models" not in arguments, **arguments}
    document = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "applications": [{"name": "motet", "route_prefix": "/", "import_path": "serve_app.app:build", "args": own}],
    }
    with tempfile.TemporaryDirectory(prefix="motet-bench-") as folder:
        file = Path(folder) / "serve_config.yaml"
        file.write_text(yaml.safe_dump(document))
        with running_service(profiles.default_profile(), file) as service:
            yield service


class RequestSource:
    """Different requests, the same ones in every run."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._paragraphs = texts(seed=2)

    def simulated(self, model: str, characters: int) -> StreamRequest:
        """A request with one piece of `characters` characters, different from all others."""
        number = next(self._numbers)
        return StreamRequest(model, f"Tone {number} ".ljust(characters - 1, "a") + ".", number)

    def paragraph(self) -> StreamRequest:
        """A request for hibari with the default settings, with 400 to 700 characters of English."""
        return StreamRequest(PATIENT, next(self._paragraphs), next(self._numbers))

    def sentence(self, pacing: str = "fast") -> StreamRequest:
        """A request for hibari with one English sentence."""
        number = next(self._numbers)
        return StreamRequest("hibari", SHORT_SENTENCES[number % len(SHORT_SENTENCES)], number, pacing)


def summed(load: Awaitable[list[StreamResult]]) -> LoadSummary:
    """Runs a load and sums up its results."""

    async def heard() -> LoadSummary:
        started = time.monotonic()
        return summary(await load, started)

    return asyncio.run(heard())
