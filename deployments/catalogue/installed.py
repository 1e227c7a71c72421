"""Models that were added to this machine: what was pinned, and how fast they were when they were tried."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from deployments.catalogue import entries
from deployments.catalogue.entries import (
    NAME_PATTERN,
    Commit,
    Digest,
    EntryName,
    ModelCatalogue,
    RepositoryName,
)
from deployments.engines import registry
from deployments.errors import MotetError, fail, in_one_line
from deployments.hub import cache
from deployments.settings import Count, NonNegative, Positive, StrictModel
from deployments.validation import in_words


class RegistrySettings(StrictModel):
    """Which models can be added, and where is noted what was added."""

    catalogue: str | None = None
    """A catalogue of your own, a YAML file; null for Motet's. deployments/catalogue/models.yaml is an example."""
    folder: str = "~/.local/share/motet/models"
    """Where the pinned models are noted, a file for each. Their weights are in the hub's cache (`HF_HOME`)."""
    fetch: bool = True
    """Whether models of the catalogue may be added to the gateway's machine, and removed from it, while the service runs:
    with an admin key, or as `security.local_models` says."""

    @property
    def model_catalogue(self) -> ModelCatalogue:
        """The catalogue. Raises `MotetError` (invalid) if it cannot be read."""
        return entries.load(Path(self.catalogue).expanduser()) if self.catalogue else entries.load()


class Trial(StrictModel):
    """How a model did when it was tried on this machine."""

    date: str
    """The day, in UTC."""
    machine: str
    """The processor, and the number of cores that the model might use."""
    load_seconds: NonNegative
    """Until it was loaded."""
    audio_seconds: Positive
    """The length of what it spoke, heard or separated."""
    wall_seconds: Positive
    """How long that took, the second time."""
    memory_bytes: Count | None = None
    """How much memory the process gained, if the system says."""

    @property
    def times_real_time(self) -> float:
        """Seconds of audio for each second."""
        return self.audio_seconds / self.wall_seconds


class PinnedFile(StrictModel):
    """A file of an added model."""

    size: int
    """Bytes."""
    sha256: Digest
    """Its digest."""


class InstalledModel(StrictModel):
    """A model whose files were downloaded and checked."""

    name: EntryName
    """What it is called in the configuration."""
    entry: str | None
    """Its entry in the catalogue; null for one that was named as hf:<org>/<name>."""
    engine: str
    """The engine that loads it."""
    hardware: Literal["cpu", "cuda", "mlx"]
    """Where it runs."""
    options: Mapping[str, Any] = {}
    """The engine's options."""
    repository: RepositoryName
    """Where it comes from."""
    revision: Commit
    """The commit."""
    licence: str = ""
    """The licence that its page states."""
    verified: bool = False
    """Whether independent manifests agree on its weights. Otherwise the digests are those of the hub."""
    files: Mapping[str, PinnedFile]
    """Its files."""
    weights: tuple[str, ...]
    """Those with weights."""
    trial: Trial | None = None
    """How it did when it was tried."""

    @property
    def task(self) -> registry.Task:
        """What the model does."""
        return registry.find(self.engine).task

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    @property
    def source(self) -> str:
        """Its repository at its commit, as `source` of a configuration has it."""
        return f"hf:{self.repository}@{self.revision}"

    @property
    def is_here(self) -> bool:
        """Whether its files are still on this disk. Reads none of them."""
        return cache.holds(self.repository, self.revision, self.files)

    @property
    def configuration(self) -> dict[str, Any]:
        """The model as `models` of a configuration has it."""
        lines: dict[str, Any] = {"engine": self.engine, "source": self.source}
        lines["sha256"] = {path: self.files[path].sha256 for path in self.weights}
        if self.options:
            lines["options"] = dict(self.options)
        return {**lines, "placements": [{"hardware": {"kind": self.hardware}}]}


class InstalledModels:
    """The notes of added models, a JSON file for each in a folder."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._folder = Path(settings.folder).expanduser()

    def all(self) -> dict[str, InstalledModel]:
        """All added models by name."""
        return {file.stem: _read(file) for file in sorted(self._folder.glob("*.json"))}

    def find(self, name: str) -> InstalledModel | None:
        """The note of one; None if it was not added."""
        if not re.fullmatch(NAME_PATTERN, name):
            return None
        file = self._file(name)
        return _read(file) if file.is_file() else None

    def of_entry(self, entry: str) -> InstalledModel | None:
        """The first note of a model that was added from an entry of the catalogue; None if there is none. Other notes may be
        damaged."""
        files = (file for file in sorted(self._folder.glob("*.json")) if _entry_in(file) == entry)
        return next(map(_read, files), None)

    def save(self, model: InstalledModel) -> None:
        """Writes a note, which appears as a whole."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self._folder, suffix=".part", delete=False) as part:
            part.write(model.model_dump_json(indent=1))
        Path(part.name).replace(self._file(model.name))

    def remove(self, name: str) -> None:
        """Removes a note, if there is one."""
        self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"


@contextmanager
def readable() -> Iterator[None]:
    """Reads the catalogue or notes for a client, which gets no path of the server: the log does. Raises `MotetError`
    (unavailable) if they cannot be read."""
    try:
        yield
    except MotetError as error:
        cause, remedy = "The catalogue or a note of this service cannot be read.", "The log of the service says which."
        raise fail("unavailable", cause, remedy, detail=in_one_line(error)) from error


def _entry_in(file: Path) -> object:
    """The entry that a note names; None if it cannot be read."""
    try:
        note = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return note.get("entry") if isinstance(note, dict) else None


def _read(file: Path) -> InstalledModel:
    try:
        return InstalledModel.model_validate_json(file.read_bytes())
    except (ValidationError, OSError) as error:
        cause = str(error) if isinstance(error, OSError) else "; ".join(in_words(error, InstalledModel))
        raise fail(
            "invalid", f"The note {file} cannot be used: {cause}", "Remove it, and add the model again."
        ) from error
