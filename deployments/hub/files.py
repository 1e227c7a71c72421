"""The files of a hub repository at one commit, and the digests by which they are known."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator

from deployments.errors import fail

BLOCK_BYTES = 1 << 20
COMMIT_PATTERN = r"^[0-9a-f]{40}$"
"""A commit, all of its digits. It names folders, so nothing else may stand for one."""
SAFE_FILES = ("*.safetensors", "*.onnx", "model.bin", "*.json", "*.txt", "*.npz", "*.model", "*.tiktoken", "*.jinja")
"""Patterns of the files that engines read. None of them can run code when it is loaded."""
WEIGHT_SUFFIXES = frozenset({".safetensors", ".onnx", ".bin"})


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository: its path, size in bytes, and digest.

    Large files have a SHA-256. The hub knows small ones by the SHA-1 that git gives them, which includes their size.
    """

    path: str
    size: int
    sha256: str | None = None
    git_sha1: str | None = None

    def matches(self, file: Path) -> bool:
        """Whether a file on this disk has the size and the digest. A file of which no digest is known matches none."""
        if file.stat().st_size != self.size:
            return False
        if self.sha256 is not None:
            return digest_of(file) == self.sha256
        return self.git_sha1 is not None and git_digest_of(file) == self.git_sha1


@dataclass(frozen=True, slots=True)
class HubListing:
    """A repository at one commit. `licence`, `task` and `library` are what its page says, if it says something."""

    name: str
    commit: str
    files: tuple[HubFile, ...]
    licence: str = ""
    task: str = ""
    library: str = ""

    def file(self, path: str) -> HubFile | None:
        """The file at a path; None if there is none."""
        return next((file for file in self.files if file.path == path), None)


def is_weight(path: str) -> bool:
    """Whether a file that engines read has weights."""
    return Path(path).suffix in WEIGHT_SUFFIXES


def is_safe(path: str) -> bool:
    """Whether engines read a file of this name, in any folder of the repository."""
    return any(fnmatch(Path(path).name, pattern) for pattern in SAFE_FILES)


def is_inside(path: str) -> bool:
    """Whether a path names something in a folder, and leads nowhere else."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\\" not in path and "\0" not in path


def inner(path: str) -> str:
    """The path, if it is inside a folder. Raises `ValueError` for another one."""
    if not is_inside(path):
        raise ValueError(f"{path[:64]!r} is not a path in a folder")
    return path


InnerFolder = Annotated[str, AfterValidator(lambda path: path and inner(path).rstrip("/"))]
"""A folder in a model's own; "" for the model's folder itself."""


def placed(folder: str, path: str) -> str:
    """The path of a file in a folder of the model's own; "" is the model's folder itself."""
    return f"{folder}/{path}" if folder else path


def safe_weights(found: HubListing) -> list[HubFile]:
    """The weight files of a repository that engines read."""
    return [file for file in found.files if is_safe(file.path) and is_weight(file.path)]


def pinned(found: HubListing, pins: Mapping[str, str]) -> Iterator[HubFile]:
    """The files of a repository that a model with these SHA-256 digests needs: its weight files, and all small files that
    engines read. Raises `MotetError`: not_found for a file that is not there, invalid if the hub states another digest."""
    for path in pins:
        if found.file(path) is None:
            cause = f"{found.name}@{found.commit} has no file {path}."
            raise fail("not_found", cause, "Check the model's sha256 table and its revision.", param="sha256")
    for file in found.files:
        if (pin := pins.get(file.path)) is not None:
            yield with_pin(file, pin, found)
        elif is_safe(file.path) and not is_weight(file.path):
            yield file


def with_pin(file: HubFile, pin: str, found: HubListing) -> HubFile:
    """The file with the digest that is expected. Raises `MotetError` (invalid) if the hub states another one."""
    if file.sha256 not in (None, pin):
        raise fail(
            "invalid",
            f"The hub states another SHA-256 for {file.path} of {found.name}@{found.commit} than the one that is pinned.",
            "Check HF_ENDPOINT: the mirror may hold another file. Nothing was downloaded.",
            code="checksum_mismatch",
        )
    return replace(file, sha256=pin)


def digest_of(file: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def git_digest_of(file: Path) -> str:
    """The SHA-1 that git gives a file, as hexadecimal digits."""
    digest = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
