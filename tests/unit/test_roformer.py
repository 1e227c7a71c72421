"""RoFormers with small random checkpoints: the shared properties, parity with the package and with mlx-audio, and their own.

`python -m tests.unit.test_roformer` writes the golden files anew.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("bs_roformer")

import torch
from bs_roformer.utils import get_model_from_config
from safetensors.torch import save_file
from torch import Tensor

from deployments.engines import registry
from deployments.engines.protocols import Chunk, EngineSpec, Samples, SeparationEngine
from deployments.engines.roformer.engine import RoformerEngine
from deployments.engines.roformer.mel_band import bands
from deployments.errors import MotetError
from deployments.weights import convert_roformer
from tests.unit import tiny_roformer
from tests.unit.test_separation_engines import SeparationProperties, sound, stems_of

RATE = tiny_roformer.RATE


@cache
def folder(kind: str, target: str | None) -> Path:
    return tiny_roformer.write(Path(tempfile.mkdtemp(prefix="tiny-roformer-")), kind, target)


@cache
def loaded(path: Path, device: str = "cpu") -> RoformerEngine:
    engine = registry.load("roformer", EngineSpec("tiny", str(path), device, 1))
    assert isinstance(engine, RoformerEngine)
    return engine


def separated(engine: SeparationEngine, samples: Samples) -> dict[str, Samples]:
    (result,) = engine.separate([Chunk(samples, RATE, 0)])
    return dict(stems_of(result).stems)


class TestBandSplit(SeparationProperties):
    # Random weights separate nothing: how chunks join says nothing here.
    name, rate, seam_db, sums_to_input = "bs-roformer-tiny", RATE, -100, False

    @staticmethod
    def engine() -> SeparationEngine:
        return loaded(folder("bs_roformer", None))


class TestMelBand(SeparationProperties):
    name, rate, seam_db = "mel-band-roformer-tiny", RATE, -100

    @staticmethod
    def engine() -> SeparationEngine:
        return loaded(folder("mel_band_roformer", "vocals"))


def test_a_chunk_equals_the_package() -> None:
    """The package's own call of the network for whole hops, to 1e-5."""
    settings = SimpleNamespace(model=tiny_roformer.settings("bs_roformer", None)["model"])
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        network = get_model_from_config("bs_roformer", settings).eval()
    network.load_state_dict(tiny_roformer.tensors("bs_roformer", None))
    samples = sound(RATE, 200 * 128 / RATE, channels=2, seed=4)
    with torch.inference_mode():
        expected = network(torch.from_numpy(samples)[None])[0].numpy()
    found = separated(loaded(folder("bs_roformer", None)), samples)
    for stem, theirs in zip(tiny_roformer.FOUR, expected, strict=True):
        np.testing.assert_allclose(found[stem], theirs, rtol=0, atol=1e-5)


def test_mel_bands_equal_those_of_mlx_audio() -> None:
    """The same checkpoint on MLX, to 1e-4."""
    pytest.importorskip("mlx_audio")
    from mlx_audio.sts.models.mel_roformer import MelRoFormer, MelRoFormerConfig

    from deployments.engines.mlx.runtime import mx

    network = tiny_roformer.NETWORK
    config = MelRoFormerConfig.custom(
        depth=1, num_bands=8, dim=network["dim"], heads=2, dim_head=8, n_fft=512, hop_length=128, win_length=512
    )
    theirs = MelRoFormer(config)
    weights = {
        name: mx.array(each.numpy()) for name, each in tiny_roformer.tensors("mel_band_roformer", "vocals").items()
    }
    theirs.load_weights(list(theirs.sanitize(weights).items()), strict=True)
    samples = sound(RATE, 100 * 128 / RATE, channels=2, seed=5)
    expected = np.array(theirs(mx.array(samples)[None]))[0]
    found = separated(loaded(folder("mel_band_roformer", "vocals")), samples)
    np.testing.assert_allclose(found["vocals"], expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["vocals"] + found["other"], samples, rtol=0, atol=1e-6)


def _written_by_mlx_audio(target: Path) -> Path:
    """The tiny mel-band checkpoint as mlx-audio's converter writes it, in float32."""
    network = tiny_roformer.NETWORK
    written: dict[str, Tensor] = {}
    for name, tensor in tiny_roformer.tensors("mel_band_roformer", "vocals").items():
        prefix = name.removesuffix("to_qkv.weight")
        parts = zip(("to_q", "to_k", "to_v"), tensor.chunk(3), strict=True) if prefix != name else ()
        written |= {f"{prefix}{part}.weight": each.contiguous() for part, each in parts} or {name: tensor}
    # As a file in bfloat16 has them: rounded.
    written |= {name: 1.01 * tensor for name, tensor in written.items() if name.endswith("rotary_embed.freqs")}
    settings = {name: network[name] for name in ("dim", "depth", "heads", "dim_head", "mask_estimator_depth")}
    settings |= {"num_bands": 8, "num_stems": 1, "mlp_expansion_factor": 4, "sample_rate": RATE, "chunk_size": 8 * RATE}
    settings |= {name: network[f"stft_{name}"] for name in ("n_fft", "hop_length", "win_length")}
    (target / "config.json").write_text(json.dumps({"model_type": "mel_band_roformer"} | settings))
    save_file(written, target / "model.safetensors")
    return target


def test_a_checkpoint_that_mlx_audio_converted_is_the_same_model(tmp_path: Path) -> None:
    samples, own = sound(RATE, 0.3, channels=2, seed=6), loaded(folder("mel_band_roformer", "vocals"))
    converted = loaded(_written_by_mlx_audio(tmp_path))
    assert converted.traits == own.traits
    for stem, expected in separated(own, samples).items():
        np.testing.assert_array_equal(separated(converted, samples)[stem], expected)


def test_published_mel_bands_cover_every_bin() -> None:
    """60 bands at 44.1 kHz, as all published checkpoints have. Sizes are those of their tensors, a quarter of a row."""
    published = bands(44_100, 2048, 60)
    assert {bin_ for band in published for bin_ in band} == set(range(1025))
    assert all(np.diff(band).tolist() == [1] * (len(band) - 1) for band in published)


def test_stems_are_named_by_the_checkpoint() -> None:
    assert loaded(folder("bs_roformer", None)).traits.stems == tiny_roformer.FOUR
    assert loaded(folder("bs_roformer", "vocals")).traits.stems == ("vocals", "other")
    assert loaded(folder("bs_roformer", None)).traits.most_chunk_seconds == 8


def test_mono_is_the_mean_of_equal_channels() -> None:
    engine, mono = loaded(folder("bs_roformer", None)), sound(RATE, 0.2)
    both = separated(engine, np.concatenate((mono, mono)))
    for stem, samples in separated(engine, mono).items():
        np.testing.assert_allclose(samples, both[stem].mean(axis=0, keepdims=True), rtol=0, atol=1e-6)


def _changed(tmp_path: Path, change: Any) -> Path:
    target = tmp_path / "changed"
    target.mkdir()
    for file in folder("bs_roformer", None).iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((target / "config.json").read_text())
    change(config)
    (target / "config.json").write_text(json.dumps(config))
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda config: config.update(model_type="scnet"), "type 'scnet'", id="kind"),
        pytest.param(lambda config: config["model"].update(stereo=False), "hears mono", id="mono"),
        pytest.param(lambda config: config["model"].update(depth=2), "missing or unknown", id="depth"),
        pytest.param(lambda config: config["model"].update(dim=8), "does not fit", id="size"),
        pytest.param(lambda config: config.pop("instruments"), "no 'instruments'", id="no stems"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(MotetError, match=message):
        loaded(_changed(tmp_path, change))


def test_the_folder_and_the_device_are_checked(tmp_path: Path) -> None:
    with pytest.raises(MotetError, match=r"config\.json is missing"):
        loaded(tmp_path)
    with pytest.raises(MotetError, match="does not run on 'mlx'"):
        loaded(folder("bs_roformer", None), device="mlx")
    (tmp_path / "config.json").write_text((folder("bs_roformer", None) / "config.json").read_text())
    with pytest.raises(MotetError, match=r"model\.safetensors is missing"):
        loaded(tmp_path)


def test_settings_run_no_code(tmp_path: Path) -> None:
    file = tmp_path / "evil.yaml"
    file.write_text(f"model: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'ran'}]")
    with pytest.raises(MotetError, match="could not determine a constructor"):
        convert_roformer.config_of(file)
    assert not (tmp_path / "ran").exists()
    file.write_text("model: {}")
    with pytest.raises(MotetError, match="no 'training'"):
        convert_roformer.config_of(file)


if __name__ == "__main__":
    for properties in (TestBandSplit(), TestMelBand()):
        np.savez_compressed(properties.golden_file(), **properties.golden())  # type: ignore[arg-type]
