"""The service that `motet bench hearing` measures, and its clients."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from cluster.models import Model, find_model
from deployments.engines import weight_sources
from deployments.engines.protocols import SpokenWord
from serve_app.bench.http_client import Answer, connected
from serve_app.bench.running_service import RunningProgram
from serve_app.bench.serve_service import service_of
from serve_app.config import AppConfig

THREADS = 2
"""Threads of faster-whisper, and replicas with one thread each of the service."""
BEAM = 5
TWO_REPLICAS, ONE_REPLICA = "two-replicas", "one-replica"
"""The default model for transcription, by the number of its replicas."""
LONG_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class HearingModel:
    """The model for transcription that is measured, by its name in the default configuration."""

    name: str
    model: Model

    @property
    def folder(self) -> str:
        """The folder of its weights."""
        source = self.model.source
        assert source is not None
        return str(weight_sources.folder_of(weight_sources.parse(source), self.model.sha256, self.model.beside))


def default_model() -> HearingModel:
    """The model for transcription of the default configuration."""
    return HearingModel(*find_model(AppConfig().models, None, "transcription"))


@contextmanager
def hearing_service(model: HearingModel, *, also_one_replica: bool) -> Iterator[RunningProgram]:
    """Runs a service with the model on two replicas, and perhaps once more on one; each replica has one thread."""
    as_it_is = model.model.model_dump(mode="json") | {"aliases": []}

    def on(replicas: int) -> dict[str, Any]:
        hardware = {"kind": "cpu", "cpus": 0.5, "threads": 1}
        return as_it_is | {"placements": [{"hardware": hardware, "replicas": replicas}]}

    models = {TWO_REPLICAS: on(THREADS)} | ({ONE_REPLICA: on(1)} if also_one_replica else {})
    with service_of({"models": models}) as service:
        yield service


def transcribe(
    service: RunningProgram, recording: bytes, model: str = TWO_REPLICAS, language: str | None = "en", **fields: str
) -> Answer:
    """Transcribes a recording as a client does, as text unless `fields` name another format. Without a language it is
    detected."""
    with connected(service, LONG_TIMEOUT_S) as client:
        return client.transcribe(recording, model=model, **({"language": language} if language else {}), **fields)


def at_once(service: RunningProgram, recordings: Sequence[bytes]) -> list[str]:
    """The texts of recordings that as many clients send at the same time."""
    with ThreadPoolExecutor(len(recordings)) as pool:
        return [answer.body.decode() for answer in pool.map(transcribe, repeat(service), recordings)]


def words_of(service: RunningProgram, recording: bytes) -> list[SpokenWord]:
    """The words of a recording with their times, as a client gets them."""
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    answer: dict[str, Any] = json.loads(transcribe(service, recording, **fields).body)
    return [SpokenWord(word["word"], word["start"], word["end"]) for word in answer["words"]]
