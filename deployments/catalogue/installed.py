"""Models that were added to this machine: what was pinned, and how fast they were when they were tried."""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from deployments.catalogue import entries
from deployments.catalogue.entries import (
    NAME_PATTERN,
    Commit,
    Digest,
    EngineName,
    EntryName,
    ModelCatalogue,
    RepositoryName,
)
from deployments.engines import registry
from deployments.errors import MotetError, fail, in_one_line
from deployments.hub import cache
from deployments.hub.files import InnerFolder, is_weight
from deployments.settings import Count, NonNegative, Positive, StrictModel
from deployments.validation import in_words

logger = logging.getLogger("ray.serve")

WeightUse = tuple[str | None, Collection[str]]
"""A source, such as `hf:org/name@commit`, and the paths of its files that a model uses; no paths mean all of them."""


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


class InstalledFiles(StrictModel):
    """Files of one repository, which were downloaded and checked."""

    repository: RepositoryName
    """Where they come from."""
    revision: Commit
    """The commit."""
    licence: str = ""
    """The licence that its page states."""
    files: Mapping[str, PinnedFile]
    """The files, by their path in the repository."""

    @property
    def source(self) -> str:
        """The repository at its commit, as `source` of a configuration has it."""
        return f"hf:{self.repository}@{self.revision}"


class InstalledBeside(InstalledFiles):
    """Files of another repository that come beside a model's own."""

    folder: InnerFolder = ""
    """The folder in the model's own where its engine finds them."""

    @property
    def weights(self) -> tuple[str, ...]:
        """Those with weights."""
        return tuple(filter(is_weight, self.files))

    @property
    def configuration(self) -> dict[str, Any]:
        """The files as `beside` of a configuration has them."""
        lines: dict[str, Any] = {"source": self.source}
        if self.folder:
            lines["folder"] = self.folder
        return {**lines, "sha256": {path: file.sha256 for path, file in self.files.items()}}


class InstalledModel(InstalledFiles):
    """A model whose files were downloaded and checked."""

    name: EntryName
    """What it is called in the configuration."""
    entry: str | None
    """Its entry in the catalogue; null for one that was named as hf:<org>/<name>."""
    engine: EngineName
    """The engine that loads it."""
    hardware: Literal["cpu", "cuda", "mlx"]
    """Where it runs."""
    options: Mapping[str, Any] = {}
    """The engine's options."""
    verified: bool = False
    """Whether independent manifests agree on its weights. Otherwise the digests are those of the hub."""
    weights: tuple[str, ...]
    """Those of its files with weights."""
    beside: tuple[InstalledBeside, ...] = ()
    """Files of other repositories."""
    trial: Trial | None = None
    """How it did when it was tried."""

    @property
    def task(self) -> registry.Task:
        """What the model does."""
        return registry.find(self.engine).task

    @property
    def size(self) -> int:
        """Bytes of all files, also of those beside its own."""
        return sum(file.size for part in self.parts for file in part.files.values())

    @property
    def parts(self) -> tuple[InstalledModel | InstalledBeside, ...]:
        """Its own files, and those beside them."""
        return (self, *self.beside)

    @property
    def uses(self) -> list[WeightUse]:
        """The weights of its repository, and the files of the others."""
        return [(self.source, self.weights), *((part.source, tuple(part.files)) for part in self.beside)]

    @property
    def is_here(self) -> bool:
        """Whether its files are still on this disk. Reads none of them."""
        return all(cache.holds(part.repository, part.revision, part.files) for part in self.parts)

    @property
    def configuration(self) -> dict[str, Any]:
        """The model as `models` of a configuration has it."""
        lines: dict[str, Any] = {"engine": self.engine, "source": self.source}
        lines["sha256"] = {path: self.files[path].sha256 for path in self.weights}
        if self.beside:
            lines["beside"] = [part.configuration for part in self.beside]
        if self.options:
            lines["options"] = dict(self.options)
        return {**lines, "placements": [{"hardware": {"kind": self.hardware}}]}


@dataclass(frozen=True, slots=True)
class DamagedNote:
    """A note that cannot be used: it is not whole, or of another version, or cannot be read."""

    file: Path
    cause: str
    text: str
    """What it says; empty if it cannot be read."""

    def may_need(self, repository: str) -> bool:
        """Whether its model may have files of a repository. A note that does not say what it is of may need any."""
        try:
            note = json.loads(self.text)
        except ValueError:
            return True
        return not isinstance(note, dict) or "repository" not in note or repository in self.text

    @property
    def error(self) -> MotetError:
        """The error for who needs this note."""
        cause = f"The note {self.file} cannot be used: {self.cause}"
        return fail("invalid", cause, "Add the model again, or remove the note.", code="note_damaged")


class InstalledModels:
    """The notes of added models, a JSON file for each in a folder."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._folder = Path(settings.folder).expanduser()

    def all(self) -> dict[str, InstalledModel]:
        """All added models by name. Damaged notes are left out; the log names each once."""
        return {name: note for name, note in self._notes() if isinstance(note, InstalledModel)}

    def damaged(self) -> dict[str, DamagedNote]:
        """The damaged notes by the names of their models."""
        return {name: note for name, note in self._notes() if isinstance(note, DamagedNote)}

    def ensure_decidable(self, model: InstalledModel) -> None:
        """Raises `MotetError` (invalid) if another model, whose note is damaged, may need files of this one: then it is not
        known which files may be removed."""
        for name, note in self.damaged().items():
            if name != model.name and any(note.may_need(part.repository) for part in model.parts):
                cause = f"The note {note.file} is damaged, and its model may need files of {model.name}: {note.cause}"
                raise fail("invalid", cause, f"Add {name} again, or remove that note.", code="note_damaged")

    def _notes(self) -> Iterator[tuple[str, InstalledModel | DamagedNote]]:
        for file in sorted(self._folder.glob("*.json")):
            if (note := _note_in(file)) is not None:
                yield file.stem, note

    def find(self, name: str) -> InstalledModel | None:
        """The note of one; None if it was not added. Raises `MotetError` (invalid) if it is damaged."""
        if not re.fullmatch(NAME_PATTERN, name):
            return None
        return _usable(_note_in(self._file(name)))

    def of_entry(self, entry: str) -> InstalledModel | None:
        """The first note of a model that was added from an entry of the catalogue; None if there is none. Other notes may be
        damaged. Raises `MotetError` (invalid) if this one is."""
        files = (file for file in sorted(self._folder.glob("*.json")) if _entry_in(file) == entry)
        return _usable(next(map(_note_in, files), None))

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


def _note_in(file: Path) -> InstalledModel | DamagedNote | None:
    """The note in a file; None if the file does not exist."""
    text = ""
    try:
        text = file.read_text()
        return InstalledModel.model_validate_json(text)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        cause = "; ".join(in_words(error, InstalledModel))
    except (OSError, UnicodeDecodeError) as error:
        cause = str(error)
    _tell_once(file, cause)
    return DamagedNote(file, cause, text)


def _usable(note: InstalledModel | DamagedNote | None) -> InstalledModel | None:
    if isinstance(note, DamagedNote):
        raise note.error
    return note


@lru_cache(maxsize=64)
def _tell_once(file: Path, cause: str) -> None:
    """The notes are read often, and a damaged one stays for a while."""
    logger.warning("The note %s of an added model cannot be used: %s", file, cause)
