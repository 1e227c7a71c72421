"""mlx-audio's separators and enhancers beside SAM-Audio, with tiny checkpoints: the shared properties, and parity with it.

`python -m tests.unit.test_mlx_separators` writes the golden files anew.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx_audio")

from deployments.engines import registry
from deployments.engines.mlx.enhancers import DITHER_SEED
from deployments.engines.mlx.runtime import loading, mx
from deployments.engines.mlx.separation import FAMILIES, kind_of
from deployments.engines.protocols import Chunk, EngineSpec, Samples, SeparationEngine
from deployments.errors import MotetError
from tests.unit import tiny_mlx_separators as tiny
from tests.unit.test_separation_engines import SeparationProperties, sound, stems_of


def loaded(folder: Path) -> SeparationEngine:
    engine: SeparationEngine = registry.load("mlx_separation", EngineSpec("tiny", str(folder), "mlx", 1))
    return engine


@cache
def mel_roformer_folder() -> Path:
    return tiny.write_mel_roformer(Path(tempfile.mkdtemp(prefix="tiny-mel-roformer-")) / "model")


@cache
def mel_roformer() -> SeparationEngine:
    return loaded(mel_roformer_folder())


@cache
def deepfilternet_folder() -> Path:
    return tiny.write_deepfilternet(Path(tempfile.mkdtemp(prefix="tiny-deepfilternet-")) / "model")


@cache
def deepfilternet() -> SeparationEngine:
    return loaded(deepfilternet_folder())


@cache
def mossformer() -> SeparationEngine:
    """The library's network has one size; here it has one block of 24."""
    from mlx_audio.sts.models.mossformer2_se import mossformer2_se_wrapper as library

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "MossFormer_MaskNet", partial(library.MossFormer_MaskNet, num_blocks=1))
        return loaded(tiny.write_mossformer(Path(tempfile.mkdtemp(prefix="tiny-mossformer-")) / "model"))


def separated(engine: SeparationEngine, samples: Samples) -> dict[str, Samples]:
    (result,) = engine.separate([Chunk(samples, engine.traits.sample_rates[0], 0)])
    return dict(stems_of(result).stems)


class TestMelRoFormer(SeparationProperties):
    # Random weights separate nothing: how chunks join says nothing here, as for all models of this file.
    name, rate, seam_db = "mlx-mel-roformer-tiny", 44_100, -100

    @staticmethod
    def engine() -> SeparationEngine:
        return mel_roformer()


class TestDeepFilterNet(SeparationProperties):
    name, rate, seam_db = "mlx-deepfilternet-tiny", 48_000, -100

    @staticmethod
    def engine() -> SeparationEngine:
        return deepfilternet()


class TestMossFormer(SeparationProperties):
    name, rate, seam_db = "mlx-mossformer-tiny", 48_000, -100

    @staticmethod
    def engine() -> SeparationEngine:
        return mossformer()


def test_mel_roformer_equals_the_library() -> None:
    from mlx_audio.sts.models.mel_roformer import MelRoFormer

    samples = sound(44_100, 0.3, channels=2, seed=4)
    model = MelRoFormer.from_pretrained(str(mel_roformer_folder()))
    expected = np.array(model(mx.array(samples)[None]))[0]
    found = separated(mel_roformer(), samples)
    np.testing.assert_allclose(found["vocals"], expected, rtol=0, atol=1e-6)
    assert mel_roformer().traits.stems == ("vocals", "other")
    assert mel_roformer().traits.most_chunk_seconds == 8


def test_deepfilternet_equals_the_library() -> None:
    from mlx_audio.sts.models.deepfilternet import DeepFilterNetModel

    samples = sound(48_000, 0.3, channels=2, seed=4)
    with loading():
        model = DeepFilterNetModel.from_pretrained(str(deepfilternet_folder()), version=3)
    assert np.abs(np.array(model.erb_fb)).max() > 0
    found = separated(deepfilternet(), samples)["speech"]
    for channel, row in zip(found, samples, strict=True):
        np.testing.assert_allclose(channel, model.enhance_array(row), rtol=0, atol=1e-6)


def test_mossformer_equals_the_library() -> None:
    """For whole frames; and what does not end with one is not silenced at its end."""
    samples = sound(48_000, (1920 + 20 * 384) / 48_000, seed=4)
    engine: Any = mossformer()
    found = separated(engine, samples)["speech"]
    whole = separated(engine, np.concatenate((samples, samples[:, :100]), axis=1))["speech"]
    assert np.abs(whole[:, -100:]).max() > 0
    library = engine._enhance.__closure__
    assert library is not None
    model = next(cell.cell_contents for cell in library if hasattr(cell.cell_contents, "enhance"))
    mx.random.seed(DITHER_SEED)
    np.testing.assert_allclose(found[0], model.enhance(samples[0], chunked=False), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(separated(engine, samples)["speech"], found)


def test_models_are_known_by_their_settings(tmp_path: Path) -> None:
    assert kind_of(mel_roformer_folder()) == "mel_roformer"
    assert kind_of(deepfilternet_folder()) == "deepfilternet"
    for kind in FAMILIES:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        assert kind_of(tmp_path) == kind


@pytest.mark.parametrize("kind", ["dialogue_sidon", "moshi", "unheard_of"])
def test_other_models_are_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(MotetError, match=f"type '{kind}'") as caught:
        loaded(tmp_path)
    assert caught.value.failure.kind == "unsupported"


def test_a_folder_without_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MotetError, match=r"no config\.json"):
        loaded(tmp_path)


if __name__ == "__main__":
    for properties in (TestMelRoFormer(), TestDeepFilterNet(), TestMossFormer()):
        np.savez_compressed(properties.golden_file(), **properties.golden())  # type: ignore[arg-type]
