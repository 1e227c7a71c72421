"""A bulk job: the model, what to make of each row, and how the work is cut."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from cluster.bulk.settings import BulkSettings
from deployments.audio.formats import AudioFormat
from deployments.engines import sources
from deployments.replica.base import ReplicaSettings
from deployments.settings import PieceSettings, SeparationSettings, StrictModel, WindowSettings


class BulkSpeechOrder(StrictModel):
    """Text to speech. `voice` None is the model's own; a row may name another. The seed of a row comes from its content
    and `seed`."""

    task: Literal["speech"] = "speech"
    voice: str | None
    voice_aliases: Mapping[str, str]
    speed: float
    seed: int
    form: AudioFormat
    pieces: PieceSettings


class BulkTranscriptionOrder(StrictModel):
    """Recordings to text. `language` None is detected; word times are asked for with `word_times`."""

    task: Literal["transcription"] = "transcription"
    language: str | None
    prompt: str | None
    word_times: bool
    windows: WindowSettings


class BulkSeparationOrder(StrictModel):
    """Recordings to stems; no `stems` are all of them."""

    task: Literal["separation"] = "separation"
    stems: tuple[str, ...]
    form: AudioFormat
    separation: SeparationSettings


BulkOrder = Annotated[BulkSpeechOrder | BulkTranscriptionOrder | BulkSeparationOrder, Field(discriminator="task")]


Way = Literal["engines", "service"]
"""Who makes the rows: engines of the job's own, or a live service."""


class BulkJob(StrictModel):
    """Everything that decides what a row becomes, and how the work is cut. `version` is Motet's."""

    model: ReplicaSettings
    order: BulkOrder
    bulk: BulkSettings
    way: Way
    version: str

    @property
    def identity(self) -> str:
        """The part that decides a row's content, as canonical JSON. The way and the version are not in it, so that a row has
        the same seed however it is made; a job that was begun in one of them is not gone on with in another (`run_job`)."""
        content = {"model", "engine", "source", "sha256", "options", "device"}
        model = self.model.model_dump(mode="json", include=content)
        return _canonical({"model": model, "order": self.order.model_dump(mode="json")})

    @property
    def weights(self) -> str:
        """Names, sizes and times of change of the files of a `path:` source, as JSON; none where it is not on this machine.
        Not in the identity: a row has the same seed wherever the weights are, and since whenever."""
        source = sources.parse(self.model.source) if self.model.source else None
        if source is None or source.kind != "path":
            return "[]"
        folder = Path(source.name).expanduser()
        files = [(str(file.relative_to(folder)), file.stat()) for file in sorted(folder.rglob("*")) if file.is_file()]
        return json.dumps([(name, facts.st_size, facts.st_mtime_ns) for name, facts in files])

    def key(self, content: str, voice: str | None = None) -> str:
        """The address of what a row becomes: SHA-256 of the settings and its text, or the digest of its recording."""
        return hashlib.sha256(_canonical([self.identity, content, voice]).encode()).hexdigest()


def seed_of(key: str) -> int:
    """48 bits of a row's key: the same row sounds the same in any job, at any place."""
    return int(key[:12], 16)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
