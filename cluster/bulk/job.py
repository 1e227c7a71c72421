"""A bulk job: the model, what to do with each row, and how the work is cut."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from cluster.bulk.settings import BulkSettings
from cluster.bulk.transcripts import TranscriptForm
from deployments.audio.formats import AudioFormat
from deployments.engines import weight_sources
from deployments.replica.base import ReplicaSettings
from deployments.settings import (
    InputType,
    PieceSettings,
    SeparationSettings,
    StrictModel,
    SubtitleSettings,
    WindowSettings,
)
from deployments.tasks.piece_quality import QualitySettings
from deployments.text.lexicon import LexiconEntries
from deployments.text.normalization.rules import ReadingRules


class BulkSpeechOrder(StrictModel):
    """Text to speech. If `voice` is None, the model's default speaks; a row may name another. The seed of a row comes from
    its content and `seed`. `lexicon` is that of the configuration, and `job_lexicon` has the job's own words. With
    `word_times`, rows say when each word is spoken. With a `verifier`, a recognition model hears every piece; a live service
    chooses its own. Without `sample_rate` (Hz) the sound has the model's, or that of the format."""

    task: Literal["speech"] = "speech"
    voice: str | None
    voice_aliases: Mapping[str, str]
    speed: float
    seed: int
    form: AudioFormat
    word_times: bool = False
    sample_rate: int | None = None
    loudness_lufs: float | None = None
    pieces: PieceSettings
    lexicon: LexiconEntries
    job_lexicon: LexiconEntries
    normalize: ReadingRules
    quality: QualitySettings
    verifier: ReplicaSettings | None = None


class BulkTranscriptionOrder(StrictModel):
    """Recordings to text. If `language` is None, it is detected. `written` is the format of the transcripts in a folder."""

    task: Literal["transcription"] = "transcription"
    language: str | None
    prompt: str | None
    word_times: bool
    windows: WindowSettings
    written: TranscriptForm = "txt"
    subtitles: SubtitleSettings = SubtitleSettings()


class BulkSeparationOrder(StrictModel):
    """Recordings to stems. Empty `stems` means all of them."""

    task: Literal["separation"] = "separation"
    stems: tuple[str, ...]
    form: AudioFormat
    separation: SeparationSettings


BulkOrder = Annotated[BulkSpeechOrder | BulkTranscriptionOrder | BulkSeparationOrder, Field(discriminator="task")]


WRITTEN = {"written", "subtitles"}
"""Settings of orders that decide only how results are written."""

Way = Literal["engines", "service"]
"""What renders the rows: engines of the job, or a live service."""


class BulkJob(StrictModel):
    """Everything that decides what a row becomes, and how the work is cut. `version` is Motet's."""

    model: ReplicaSettings
    order: BulkOrder
    bulk: BulkSettings
    way: Way
    version: str

    @property
    def identity(self) -> str:
        """The part that decides a row's content, as canonical JSON. `way` and `version` are not in it, so a row has the
        same seed in either way; `run_job` refuses to resume a job with another way or version."""
        order = self.order.model_dump(mode="json", exclude={"verifier", *WRITTEN})
        if isinstance(self.order, BulkSpeechOrder) and self.order.verifier:
            order["verifier"] = _content(self.order.verifier)
        return _canonical({"model": _content(self.model), "order": order})

    @property
    def written(self) -> str:
        """The part that decides only how results are written, as canonical JSON."""
        return _canonical(self.order.model_dump(mode="json", include=WRITTEN))

    @property
    def weights(self) -> str:
        """Names, sizes and modification times of the files of a `path:` source, as JSON; an empty list if they are not on
        this machine. They are not in the identity, so that copying weights does not change a row's seed."""
        source = weight_sources.parse(self.model.source) if self.model.source else None
        if source is None or source.kind != "path":
            return "[]"
        folder = Path(source.name).expanduser()
        files = [(str(file.relative_to(folder)), file.stat()) for file in sorted(folder.rglob("*")) if file.is_file()]
        return json.dumps([(name, facts.st_size, facts.st_mtime_ns) for name, facts in files])

    def key(self, content: str, voice: str | None = None, input_type: InputType = "text") -> str:
        """The key of a row: SHA-256 of the settings and its text, or the digest of its recording."""
        return hashlib.sha256(_canonical([self.identity, content, voice, input_type]).encode()).hexdigest()


def _content(model: ReplicaSettings) -> dict[str, Any]:
    """The settings of a model that decide what it makes. One without files beside its own keeps the seeds that it had before
    there were any."""
    content = {"model", "engine", "source", "sha256", "options", "device"} | ({"beside"} if model.beside else set())
    return model.model_dump(mode="json", include=content)


def seed_of(key: str) -> int:
    """48 bits of a row's key. The same row has the same seed in every job."""
    return int(key[:12], 16)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
