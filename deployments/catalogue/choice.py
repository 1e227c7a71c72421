"""What is to be added: an entry of the catalogue or a repository of the hub, resolved to a commit and files with digests."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from deployments.catalogue.entries import NAME_PATTERN, CatalogueFiles, ModelCatalogue
from deployments.catalogue.installed import InstalledBeside, InstalledModel, PinnedFile
from deployments.catalogue.recognise import CONFIG, INDEX, engine_of, files_of, read_json
from deployments.engines import registry
from deployments.errors import fail
from deployments.hub import cache
from deployments.hub.download import Download, borrowed
from deployments.hub.files import HubFile, HubListing, digest_of, is_safe, is_weight, with_pin
from deployments.hub.listing import listing

HUB = "hf:"


@dataclass(frozen=True, slots=True)
class ChosenFiles:
    """Files of a repository at one commit, and the folder in the model's own where its engine finds them."""

    found: HubListing
    files: tuple[HubFile, ...]
    folder: str = ""

    @property
    def download(self) -> Download:
        """The files."""
        return Download(self.found.name, self.found.commit, self.files)

    def note(self) -> dict[str, Any]:
        """What a note says of the files, which were checked and are in the snapshot."""
        snapshot = cache.snapshot(self.found.name, self.found.commit)
        files = {
            file.path: PinnedFile(size=file.size, sha256=file.sha256 or digest_of(snapshot / file.path))
            for file in self.files
        }
        found = self.found
        return {"repository": found.name, "revision": found.commit, "licence": found.licence, "files": files}


@dataclass(frozen=True, slots=True)
class Choice:
    """A model that is to be added: its files, those of other repositories beside them, and how it is configured."""

    name: str
    entry: str | None
    engine: str
    hardware: str
    options: Mapping[str, Any]
    own: ChosenFiles
    verified: bool
    beside: tuple[ChosenFiles, ...] = ()

    @property
    def downloads(self) -> tuple[Download, ...]:
        """All files, those of the model's own repository first."""
        return tuple(part.download for part in (self.own, *self.beside))

    def installed(self) -> InstalledModel:
        """The note of the model, whose files were checked and are in their snapshots."""
        return InstalledModel(
            name=self.name,
            entry=self.entry,
            engine=self.engine,
            hardware=self.hardware,
            options=self.options,
            verified=self.verified,
            weights=tuple(file.path for file in self.own.files if is_weight(file.path)),
            beside=tuple(InstalledBeside(folder=part.folder, **part.note()) for part in self.beside),
            **self.own.note(),
        )


def choose(
    wanted: str,
    catalogue: ModelCatalogue,
    present: Collection[str],
    *,
    name: str | None = None,
    hardware: str | None = None,
    engine: str | None = None,
) -> Choice:
    """The model that `wanted` names: an entry of the catalogue, or `hf:<org>/<name>`, which may end with `@<revision>`.

    `name` is what it is called in the configuration, `hardware` the class where it runs (without it, the first of the entry's
    that is `present` here), and `engine` what loads a repository whose engine is not known. Asks the hub.

    Raises `MotetError`.
    """
    if name is not None and not re.fullmatch(NAME_PATTERN, name):
        raise fail("invalid", f"{name!r} is not a name for a model.", "Use lower-case letters, digits, dots, - and _.")
    if wanted.startswith(HUB):
        return _of_hub(wanted, name, hardware, engine)
    entry = catalogue.find(wanted)
    if engine is not None:
        cause = f"{wanted} is an entry of the catalogue, which has an engine of its own: {entry.engine}."
        raise fail("invalid", cause, "Leave --engine out; it is for hf:<org>/<name>.", param="engine")
    options: dict[str, Mapping[str, Any]] = {str(each): given for each, given in entry.hardware.items()}
    kind = hardware or next((each for each in options if each in present), next(iter(options)))
    if kind not in options:
        cause = f"{wanted} does not run on {kind}."
        raise fail("unsupported", cause, f"It runs on {' and '.join(options)}.", param="hardware")
    own, beside = _chosen(wanted, entry), tuple(_chosen(wanted, each, each.folder) for each in entry.beside)
    return Choice(name or wanted, wanted, entry.engine, kind, options[kind], own, entry.verified, beside)


def _chosen(name: str, part: CatalogueFiles, folder: str = "") -> ChosenFiles:
    """The files of an entry in one repository. Asks the hub."""
    found = listing(part.repository, part.revision)
    return ChosenFiles(found, tuple(_files_of(name, part, found)), folder)


def _files_of(name: str, part: CatalogueFiles, found: HubListing) -> Iterator[HubFile]:
    """The files of an entry in one repository, with the digests of the catalogue. Raises `MotetError` if the hub has other
    ones."""
    for path, pinned in part.files.items():
        file = found.file(path)
        if file is None or pinned.size not in (None, file.size):
            how = "is not there" if file is None else f"has {file.size:,} bytes and not {pinned.size:,}"
            cause = f"{path} of {found.name}@{found.commit} {how}, so the entry {name} does not fit."
            raise fail("invalid", cause, "Check HF_ENDPOINT: the mirror may differ.", code="checksum_mismatch")
        yield file if pinned.sha256 is None else with_pin(file, pinned.sha256, found)
    for file in found.files:
        if file.path not in part.files and is_safe(file.path) and any(_fits(file.path, each) for each in part.also):
            yield file


def _fits(path: str, pattern: str) -> bool:
    """Whether a path is in the folder of a pattern, and has its name."""
    return str(Path(path).parent) == str(Path(pattern).parent) and fnmatch(Path(path).name, Path(pattern).name)


def _of_hub(wanted: str, name: str | None, hardware: str | None, engine: str | None) -> Choice:
    """A repository that is not in the catalogue: its small files say which engine loads it, and which weights that needs."""
    repository, _, revision = wanted.removeprefix(HUB).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise fail("invalid", f"{wanted!r} does not name a hub model.", "Write hf:<org>/<name>.", param="name")
    found = listing(repository, revision or None)
    read = _parsed(found)
    engine = engine or engine_of(found, read.get(CONFIG, {}))
    registry.find(engine)
    kind = hardware or ("mlx" if engine.startswith("mlx_") else "cpu")
    own = name or re.sub(r"[^a-z0-9._-]", "-", repository.partition("/")[2].lower()).lstrip("._-")[:64] or "model"
    return Choice(own, None, engine, kind, {}, ChosenFiles(found, files_of(found, read.get(INDEX))), False)


def _parsed(found: HubListing) -> dict[str, Mapping[str, Any]]:
    """The small files that say what a repository is, downloaded and checked."""
    files = tuple(file for path in (CONFIG, INDEX) if (file := found.file(path)) is not None)
    if not files:
        return {}
    with borrowed(Download(found.name, found.commit, files)) as folder:
        return {file.path: read_json(folder / file.path) for file in files}
