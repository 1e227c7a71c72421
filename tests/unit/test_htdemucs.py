"""htdemucs with a small random checkpoint: the shared properties, parity with its package, and its own.

`python -m tests.unit.test_htdemucs` writes the golden file anew.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("demucs_infer")

import torch
from demucs_infer.apply import apply_model

from deployments.engines import registry
from deployments.engines.htdemucs.engine import HtdemucsEngine
from deployments.engines.protocols import Chunk, EngineSpec, Samples, SeparationEngine
from deployments.errors import MotetError
from deployments.weights import convert_htdemucs, torch_checkpoints
from tests.unit import tiny_htdemucs
from tests.unit.test_separation_engines import SeparationProperties, assert_same, sound, stems_of

RATE = tiny_htdemucs.RATE
STEMS = ("drums", "bass", "other", "vocals")


@cache
def folder() -> Path:
    return tiny_htdemucs.write(Path(tempfile.mkdtemp(prefix="tiny-htdemucs-")) / "model")


def loaded(path: Path, device: str = "cpu", **options: Any) -> HtdemucsEngine:
    engine = registry.load("htdemucs", EngineSpec("tiny", str(path), device, 1, options))
    assert isinstance(engine, HtdemucsEngine)
    return engine


@cache
def engine() -> HtdemucsEngine:
    return loaded(folder())


def separated(samples: Samples) -> dict[str, Samples]:
    (result,) = engine().separate([Chunk(samples, RATE, 0)])
    return dict(stems_of(result).stems)


class TestTinyHtdemucs(SeparationProperties):
    # Random weights separate nothing: how chunks join says nothing here.
    name, rate, seam_db, sums_to_input = "htdemucs-tiny", RATE, -100, False

    @staticmethod
    def engine() -> SeparationEngine:
        return engine()


def test_a_segment_equals_the_package() -> None:
    """The package's own call of the network, with the package's own normalisation of a track, to 1e-5 of the level."""
    samples = sound(RATE, float(tiny_htdemucs.SEGMENT), channels=2, seed=4)
    mixture = torch.from_numpy(samples)
    level = mixture.mean(0)
    scaled = (mixture - level.mean()) / (level.std() + 1e-8)
    expected = apply_model(tiny_htdemucs.network(), scaled[None], shifts=0, split=False)[0]
    expected = (expected * (level.std() + 1e-8) + level.mean()).numpy()
    found = separated(samples)
    assert tuple(found) == STEMS
    for stem, theirs in zip(STEMS, expected, strict=True):
        np.testing.assert_allclose(found[stem], theirs, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_mono_is_the_mean_of_equal_channels() -> None:
    mono = sound(RATE, 0.5)
    both = separated(np.concatenate((mono, mono)))
    for stem, samples in separated(mono).items():
        np.testing.assert_allclose(samples, both[stem].mean(axis=0, keepdims=True), rtol=0, atol=1e-6)


def test_silence_stays_silent() -> None:
    silence = separated(np.zeros((2, RATE // 10), np.float32))
    assert max(np.abs(samples).max() for samples in silence.values()) < 1e-6


def test_too_many_channels_and_too_long_chunks_fail_alone() -> None:
    good = Chunk(sound(RATE, 0.1, channels=2), RATE, 0)
    wide = Chunk(sound(RATE, 0.1, channels=6), RATE, 1)
    long = Chunk(np.zeros((1, round(8 * RATE)), np.float32), RATE, 2)
    alone = engine().separate([good])[0]
    first, six, eight = engine().separate([good, wide, long])
    assert_same(first, alone, 1e-5)
    assert isinstance(six, MotetError) and "at most 2" in str(six)
    assert isinstance(eight, MotetError) and "at most 7.8 s" in str(eight)


def test_a_published_checkpoint_is_converted(tmp_path: Path) -> None:
    published = tiny_htdemucs.write_published(tmp_path / "955717e8.th")
    convert_htdemucs.convert(published, tmp_path / "model")
    chunk = Chunk(sound(RATE, 0.2, channels=2), RATE, 0)
    assert_same(loaded(tmp_path / "model").separate([chunk])[0], engine().separate([chunk])[0], 0)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"klass": Evil()}, tmp_path / "evil.th")
    with pytest.raises(MotetError, match="tensors only"):
        convert_htdemucs.convert(tmp_path / "evil.th", tmp_path / "model")
    assert not (tmp_path / "ran").exists()


def test_the_converter_is_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = tiny_htdemucs.write_published(tmp_path / "955717e8.th")
    monkeypatch.setattr("sys.argv", ["convert", str(published), str(tmp_path / "model")])
    torch_checkpoints.run(convert_htdemucs.convert, "CHECKPOINT", "FOLDER")
    assert (tmp_path / "model" / "htdemucs.safetensors").is_file()
    monkeypatch.setattr("sys.argv", ["convert", str(published)])
    with pytest.raises(SystemExit, match=r"Usage: python -m deployments\.weights\.convert_htdemucs CHECKPOINT FOLDER"):
        torch_checkpoints.run(convert_htdemucs.convert, "CHECKPOINT", "FOLDER")
    monkeypatch.setattr("sys.argv", ["convert", str(tmp_path / "none.th"), "folder"])
    with pytest.raises(SystemExit, match="There is no file"):
        torch_checkpoints.run(convert_htdemucs.convert, "CHECKPOINT", "FOLDER")


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    torch.save({"state": {}}, tmp_path / "other.th")
    with pytest.raises(MotetError, match="not an HTDemucs"):
        convert_htdemucs.convert(tmp_path / "other.th", tmp_path)
    with pytest.raises(MotetError, match="There is no file"):
        convert_htdemucs.convert(tmp_path / "missing.th", tmp_path)


def test_the_folder_and_the_device_are_checked(tmp_path: Path) -> None:
    with pytest.raises(MotetError, match=r"has no \*\.safetensors"):
        loaded(tmp_path)
    with pytest.raises(MotetError, match="does not run on 'mlx'"):
        loaded(folder(), device="mlx")
    for name in ("one", "two"):
        tiny_htdemucs.write(tmp_path / name).joinpath("htdemucs.safetensors").rename(tmp_path / f"{name}.safetensors")
    with pytest.raises(MotetError, match=r"one\.safetensors, two\.safetensors"):
        loaded(tmp_path)
    assert loaded(tmp_path, checkpoint="two.safetensors").traits.stems == STEMS
    (tmp_path / "two.safetensors").write_bytes(b"no tensors")
    with pytest.raises(MotetError, match="not an htdemucs checkpoint"):
        loaded(tmp_path, checkpoint="two.safetensors")


if __name__ == "__main__":
    np.savez_compressed(TestTinyHtdemucs.golden_file(), **TestTinyHtdemucs().golden())  # type: ignore[arg-type]
