"""mlx-audio's SAM-Audio with a tiny checkpoint: the shared properties, and its own.

`python -m tests.unit.test_mlx_separation` writes the golden file anew.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx_audio")

from deployments.engines import registry
from deployments.engines.mlx.runtime import mx
from deployments.engines.mlx.separation import MlxSeparation, ode_options
from deployments.engines.protocols import Chunk, EngineSpec, SeparationEngine
from deployments.errors import MotetError
from tests.unit import tiny_sam_audio
from tests.unit.test_separation_engines import SeparationProperties, assert_same, sound, stems_of


@cache
def tiny_folder() -> Path:
    return tiny_sam_audio.write(Path(tempfile.mkdtemp(prefix="tiny-sam-audio-")) / "model")


@cache
def engine() -> MlxSeparation:
    chosen = {"ode_opt": {"method": "euler", "step_size": 0.5}}
    loaded = registry.load("mlx_separation", EngineSpec("tiny", str(tiny_folder()), "mlx", 1, chosen))
    assert isinstance(loaded, MlxSeparation)
    return loaded


class TestTinySamAudio(SeparationProperties):
    # Random weights separate nothing: the stems are noise that differs from chunk to chunk.
    name, rate, seam_db, sums_to_input = "mlx-sam-audio-tiny", tiny_sam_audio.RATE, -100, False

    @staticmethod
    def engine() -> SeparationEngine:
        return engine()


def chunk(index: int = 0, description: str | None = None, channels: int = 1) -> Chunk:
    return Chunk(sound(tiny_sam_audio.RATE, 0.1, channels, seed=3), tiny_sam_audio.RATE, index, description)


def test_the_description_and_the_chunks_number_matter_and_a_repetition_does_not() -> None:
    spoken, barked, again, default, later = engine().separate(
        [chunk(), chunk(description="a dog"), chunk(description="speech"), chunk(), chunk(index=1)]
    )
    assert_same(spoken, again, 1e-5)
    assert_same(spoken, default, 1e-5)
    for other in (barked, later):
        assert not np.allclose(stems_of(spoken).stems["target"], stems_of(other).stems["target"], atol=1e-4)


def test_alike_chunks_and_channels_are_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    separate = engine()._model.separate

    def counted(audios: Any, **options: Any) -> Any:
        shapes.append(audios.shape)
        return separate(audios, **options)

    monkeypatch.setattr(engine()._model, "separate", counted)
    crossed = (engine().edge.entered, engine().edge.left)
    engine().separate([chunk(), chunk(1, channels=2), chunk(2)])
    assert shapes == [(4, 1, 1600)]
    assert (engine().edge.entered - crossed[0], engine().edge.left - crossed[1]) == (1, 2)


def test_a_batch_that_fails_is_tried_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    separate = engine()._model.separate

    def picky(audios: Any, descriptions: list[str], **options: Any) -> Any:
        if "poison" in descriptions:
            raise ValueError("cannot hear that")
        return separate(audios, descriptions=descriptions, **options)

    alone = engine().separate([chunk()])[0]
    monkeypatch.setattr(engine()._model, "separate", picky)
    first, failure, second = engine().separate([chunk(), chunk(description="poison"), chunk()])
    assert isinstance(failure, ValueError)
    assert_same(first, alone, 1e-5)
    assert_same(second, alone, 1e-5)


def test_the_peak_is_that_of_one_chunk() -> None:
    """Ten chunks one after another, as the graph sends a long recording, take what one takes."""

    def peak(chunks: int) -> int:
        mx.clear_cache()
        mx.reset_peak_memory()
        for index in range(chunks):
            stems_of(engine().separate([chunk(index)])[0])
        return int(mx.get_peak_memory())

    peak(1)
    assert peak(10) <= peak(1) * 1.05


def test_the_solver_is_checked() -> None:
    assert ode_options(None) == {"method": "midpoint", "step_size": 2 / 32}
    assert ode_options({"method": "euler"}) == {"method": "euler", "step_size": 2 / 32}
    for wrong in ({"method": "magic"}, {"step_size": 1}, {"steps": 3}, "euler"):
        with pytest.raises(MotetError, match="step_size"):
            ode_options(wrong)


def test_a_checkpoint_without_its_text_encoder_is_refused(tmp_path: Path) -> None:
    """Nothing is fetched by name."""
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_folder() / name, tmp_path / name)
    with pytest.raises(MotetError, match="text_encoder"):
        registry.load("mlx_separation", EngineSpec("tiny", str(tmp_path), "mlx", 1))


if __name__ == "__main__":
    np.savez_compressed(TestTinySamAudio.golden_file(), **TestTinySamAudio().golden())  # type: ignore[arg-type]
