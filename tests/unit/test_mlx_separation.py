"""mlx-audio's SAM-Audio with a tiny checkpoint: the shared properties, and its own.

`python -m tests.unit.test_mlx_separation` writes the golden file anew.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("mlx_audio")

from deployments.engines import registry
from deployments.engines.mlx.runtime import mx
from deployments.engines.mlx.sam_audio import SamAudio, ode_options
from deployments.engines.protocols import Chunk, EngineSpec, SeparationEngine
from deployments.errors import MotetError
from deployments.tasks.separation import SeparationTask, separate_here
from tests.unit import tiny_sam_audio
from tests.unit.test_separation_engines import SeparationProperties, assert_same, sound, stems_of


@cache
def tiny_folder() -> Path:
    return tiny_sam_audio.write(Path(tempfile.mkdtemp(prefix="tiny-sam-audio-")) / "model")


@cache
def engine() -> SamAudio:
    chosen = {"ode_opt": {"method": "euler", "step_size": 0.5}}
    loaded = registry.load("mlx_separation", EngineSpec("tiny", str(tiny_folder()), "mlx", 1, chosen))
    assert isinstance(loaded, SamAudio)
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


def test_a_description_is_encoded_once_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in batches with other descriptions; the engine remembers it for the next chunks."""
    encoded: list[str] = []
    encoder = engine()._model.text_encoder

    def counted(texts: list[str]) -> Any:
        encoded.extend(texts)
        return encoder(texts)

    alone = engine().separate([chunk(description="rain on a roof")])[0]
    engine()._encoded.cache_clear()
    monkeypatch.setattr(engine()._model, "text_encoder", counted)
    for index in range(3):
        results = engine().separate([chunk(index, "rain on a roof", channels=2), chunk(index, "a dog")])
        assert all(not isinstance(result, Exception) for result in results)
    assert_same(engine().separate([chunk(description="rain on a roof"), chunk(description="a dog")])[0], alone, 1e-5)
    assert encoded == ["rain on a roof", "a dog"]


def test_options_of_the_solver_are_the_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[int, dict[str, Any]]] = []
    separate = engine()._model.separate

    def noted(audios: Any, ode_opt: dict[str, Any], **options: Any) -> Any:
        used.append((len(audios), ode_opt))
        return separate(audios, ode_opt=ode_opt, **options)

    monkeypatch.setattr(engine()._model, "separate", noted)
    fine = replace(chunk(1), ode_step_size=0.25)
    both = replace(chunk(2), ode_method="midpoint", ode_step_size=0.25)
    results = engine().separate([chunk(), fine, both, fine])
    assert used == [
        (1, {"method": "euler", "step_size": 0.5}),
        (2, {"method": "euler", "step_size": 0.25}),
        (1, {"method": "midpoint", "step_size": 0.25}),
    ]
    assert_same(results[1], results[3], 1e-5)
    assert not np.allclose(stems_of(results[1]).stems["target"], stems_of(results[0]).stems["target"], atol=1e-4)
    assert engine().traits.takes_ode_options


def test_the_graph_equals_the_librarys_own_long_separation() -> None:
    """Chunks of 0.8 s with 0.2 s of overlap of 2.5 s, by our driver and by mlx-audio's `separate_long`, to 1e-4: the same seed,
    and so the same noise of each chunk. Both fade with a raised cosine, of which ours is half a sample later."""
    import mlx_audio.sts.models.sam_audio.model as library

    rate, samples = tiny_sam_audio.RATE, sound(tiny_sam_audio.RATE, 2.5, seed=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "tqdm", lambda items, **_: items)  # draws a bar
        expected = engine()._model.separate_long(
            mx.array(samples)[None],
            ["speech"],
            chunk_seconds=0.8,
            overlap_seconds=0.2,
            ode_opt={"method": "euler", "step_size": 0.5},
            seed=42,
        )
    task = SeparationTask((rate,), 0.8, 0.2, description="speech")
    file = io.BytesIO()
    soundfile.write(file, samples[0], rate, format="WAV", subtype="FLOAT")
    file.seek(0)
    parts = list(separate_here(file, task, engine(), max_audio_s=10))
    for stem, theirs in (("target", expected.target[0]), ("residual", expected.residual[0])):
        ours = np.concatenate([part.stems[stem] for part in parts], axis=1)[0]
        np.testing.assert_allclose(ours, np.array(theirs)[: len(ours), 0], rtol=0, atol=1e-4)


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
