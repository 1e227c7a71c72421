"""The catalogue: models that Motet's engines load, each pinned to a commit of a hub repository and to digests of its files.
If the engine needs files of other repositories, too, the entry names them `beside` its own.

The digests come from manifests that public projects keep of the same files. An entry is verified if at least two independent
manifests agree on each of its weight files; for all others the hub's own digests are taken when the model is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from deployments.engines import registry
from deployments.errors import MotetError, fail
from deployments.hub.files import COMMIT_PATTERN, InnerFolder, is_weight, placed
from deployments.settings import Count, StrictModel
from deployments.validation import in_words

OWN_FILE = Path(__file__).with_name("models.yaml")
AGREEING = 2
"""Independent manifests that make a digest verified."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, Field(pattern=COMMIT_PATTERN)]
RepositoryName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
EntryName = Annotated[str, Field(pattern=NAME_PATTERN)]


def _known_engine(name: str) -> str:
    try:
        registry.find(name)
    except MotetError as error:
        raise ValueError(str(error)) from error
    return name


EngineName = Annotated[str, AfterValidator(_known_engine)]


class CatalogueFile(StrictModel):
    """A file of an entry."""

    size: Count | None = None
    """Bytes. null: as the hub says."""
    sha256: Digest | None = None
    """Its digest. null: as the hub says."""
    sources: tuple[str, ...] = ()
    """The public manifests that have this digest: keys of `manifests`."""

    @model_validator(mode="after")
    def _digest_has_sources(self) -> CatalogueFile:
        if (self.sha256 is None) != (not self.sources):
            raise ValueError("a digest needs sources, and sources need a digest")
        return self

    @property
    def verified(self) -> bool:
        """Whether independent manifests agree on the digest."""
        return len(set(self.sources)) >= AGREEING


class CatalogueFiles(StrictModel):
    """Files of one repository."""

    repository: RepositoryName
    """The repository on the hub."""
    revision: Commit | None = None
    """The commit. null: the newest when the model is added, which is pinned then."""
    licence: str
    """The licence of the files, as their page states it."""
    files: Annotated[Mapping[str, CatalogueFile], Field(min_length=1)]
    """The files, by their path in the repository."""
    also: tuple[str, ...] = ()
    """Patterns of more files of the commit, with the digests that the hub states."""

    @property
    def weights_agree(self) -> bool:
        """Whether independent manifests agree on every weight file of a pinned commit."""
        weights = [file for path, file in self.files.items() if is_weight(path)]
        listed = not any(map(is_weight, self.also))
        return self.revision is not None and listed and all(file.verified for file in weights)

    @property
    def bytes_of_files(self) -> int | None:
        """Bytes of all files; None if the catalogue does not know all of them."""
        sizes = [file.size for file in self.files.values()]
        return None if self.also or None in sizes else sum(size for size in sizes if size is not None)


class CatalogueBeside(CatalogueFiles):
    """Files of another repository that the engine of a model needs beside the model's own."""

    folder: InnerFolder = ""
    """The folder in the model's own where the engine finds them. Empty: the model's folder itself."""


class CatalogueEntry(CatalogueFiles):
    """A model that can be added."""

    about: str
    """What it is, in a sentence."""
    engine: EngineName
    """The engine that loads it."""
    parameters: str
    """Its size, such as 809M."""
    languages: tuple[str, ...] = ()
    """Codes of its languages; empty for models without a language. `many`: see the model's page."""
    hardware: Annotated[Mapping[Literal["cpu", "cuda", "mlx"], Mapping[str, Any]], Field(min_length=1)]
    """Classes on which the engine runs it, each with the engine's options there. The first one is the default."""
    beside: tuple[CatalogueBeside, ...] = ()
    """Files of other repositories that come beside its own."""
    tested: str
    """What of it Motet has run."""

    @model_validator(mode="after")
    def _one_file_at_a_place(self) -> CatalogueEntry:
        places = [*self.files, *(placed(each.folder, path) for each in self.beside for path in each.files)]
        if twice := sorted(place for place in set(places) if places.count(place) > 1):
            raise ValueError(f"two files would have the place {twice[0]}")
        return self

    @property
    def task(self) -> registry.Task:
        """What the model does."""
        return registry.find(self.engine).task

    @property
    def parts(self) -> tuple[CatalogueFiles, ...]:
        """Its own files, and those beside them."""
        return (self, *self.beside)

    @property
    def verified(self) -> bool:
        """Whether independent manifests agree on every weight file."""
        return any(map(is_weight, self.files)) and all(part.weights_agree for part in self.parts)

    @property
    def size(self) -> int | None:
        """Bytes of all files; None if the catalogue does not know all of them."""
        sizes = [part.bytes_of_files for part in self.parts]
        return None if None in sizes else sum(size for size in sizes if size is not None)


class ModelCatalogue(StrictModel):
    """All entries by name."""

    manifests: Mapping[str, str] = {}
    """Public manifests, each of another project: what they are."""
    models: Mapping[EntryName, CatalogueEntry]

    @model_validator(mode="after")
    def _sources_are_manifests(self) -> ModelCatalogue:
        for name, entry in self.models.items():
            files = [(path, file) for part in entry.parts for path, file in part.files.items()]
            for path, file in files:
                if unknown := sorted(set(file.sources) - set(self.manifests)):
                    raise ValueError(f"{name}.files.{path}: manifests has no {unknown[0]!r}")
        return self

    def find(self, name: str) -> CatalogueEntry:
        """The entry of a name. Raises `MotetError` (not_found) with the nearest names."""
        if name in self.models:
            return self.models[name]
        near = get_close_matches(name, self.models, n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "motet models lists what there is."
        remedy = f"{hint} A model that is not in the catalogue is added as hf:<org>/<name>."
        raise fail("not_found", f"The catalogue has no model {name!r}.", remedy, code="not_in_catalogue")


@cache
def load(file: Path = OWN_FILE) -> ModelCatalogue:
    """The catalogue of a file; by default Motet's own. Raises `MotetError` (invalid) that lists every mistake."""
    try:
        return ModelCatalogue.model_validate(yaml.safe_load(file.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise fail("invalid", f"The catalogue {file} cannot be read: {error}", "Check the file.") from error
    except ValidationError as error:
        lines = "\n".join(f"  {line}" for line in in_words(error, ModelCatalogue))
        raise fail("invalid", f"The catalogue {file} has mistakes:\n{lines}", "Correct them.") from error
